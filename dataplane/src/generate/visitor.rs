//! Who visits: people with a device, a way they came, and perhaps an account. A number in, always the same person.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

/// A device and the software on it, as its requests tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// What the event says; web pages leave it to the user agent.
    platform: Option<&'static str>,
    app_version: Option<&'static str>,
    pub(super) user_agent: &'static str,
}

const DEVICES: [Device; 7] = [
    Device {
        platform: None,
        app_version: None,
        user_agent: "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                     Chrome/141.0.0.0 Safari/537.36",
    },
    Device {
        platform: Some("web"),
        app_version: None,
        user_agent: "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                     Version/18.4 Safari/605.1.15",
    },
    Device {
        platform: Some("web"),
        app_version: None,
        user_agent: "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    },
    Device {
        platform: None,
        app_version: None,
        user_agent: "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) \
                     Chrome/141.0.0.0 Mobile Safari/537.36",
    },
    Device {
        platform: Some("ios"),
        app_version: Some("4.12.0"),
        user_agent: "Shop/4.12.0 (iPhone; iOS 18.4; Scale/3.00)",
    },
    Device {
        platform: Some("android"),
        app_version: Some("4.11.2"),
        user_agent: "Shop/4.11.2 (Linux; U; Android 15; SM-S921B)",
    },
    Device { platform: Some("server"), app_version: None, user_agent: "shop-backend/2.3" },
];

/// Campaign, source, medium, content, term; `None` came on their own.
const CAMPAIGNS: [Option<[&str; 5]>; 6] = [
    None,
    None,
    Some(["spring_sale", "google", "cpc", "headline_a", "running shoes"]),
    Some(["spring_sale", "google", "cpc", "headline_b", "trail shoes"]),
    Some(["newsletter_17", "newsletter", "email", "hero", ""]),
    Some(["creators", "instagram", "social", "story", ""]),
];

/// Currencies with two decimal places.
const CURRENCIES: [&str; 3] = ["EUR", "USD", "GBP"];

/// One person.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    /// Who it is among all of the seed's.
    pub(super) number: u64,
    pub(super) device: Device,
    pub(super) currency: &'static str,
    ids: Map<String, Value>,
}

impl Visitor {
    /// The person with this number. About six of ten have an account and are signed in.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed.rotate_left(32) ^ number);
        let name = format!("{seed:x}-{number}");
        let mut ids = Map::new();
        ids.insert("anonymous_id".to_owned(), json!(format!("anon-{name}")));
        ids.insert("device_id".to_owned(), json!(format!("device-{name}")));
        if rng.random_bool(0.6) {
            ids.insert("user_id".to_owned(), json!(format!("user-{name}")));
        }
        Self { number, device: pick(&mut rng, &DEVICES), currency: pick(&mut rng, &CURRENCIES), ids }
    }

    /// The mail address an account is kept under.
    pub(super) fn email(&self) -> String {
        format!("visitor{}@example.com", self.number)
    }

    /// What every event of one session carries.
    pub(super) fn session(&self, session_id: &str, rng: &mut Xoshiro256PlusPlus) -> Map<String, Value> {
        let mut members = self.ids.clone();
        members.insert("session_id".to_owned(), json!(session_id));
        members.insert(
            "consent".to_owned(),
            json!({"categories": ["analytics", "marketing"], "version": "2026-01"}),
        );
        for (name, value) in [("platform", self.device.platform), ("app_version", self.device.app_version)] {
            members.extend(value.map(|value| (name.to_owned(), json!(value))));
        }
        if let Some([campaign, source, medium, content, term]) = pick(rng, &CAMPAIGNS) {
            let attribution = json!({"campaign": campaign, "source": source, "medium": medium, "content": content, "term": term});
            members.insert("attribution".to_owned(), attribution);
        }
        members
    }
}

/// One of a list that is not empty.
pub(super) fn pick<T: Copy>(rng: &mut Xoshiro256PlusPlus, list: &[T]) -> T {
    list[rng.random_range(0..list.len())]
}
