//! What process adds to an event: an event and its App's configuration in, [`Derived`] out. Pure and total:
//! what cannot be derived stays empty, it never stops an event.

use millrace_crds::config::Events;
use serde_json::value::RawValue;
use woothee::parser::{Parser, WootheeResult};
use woothee::woothee::VALUE_UNKNOWN;

use crate::process::property::{Misfit, Properties, parse_decimal, parse_text};
use crate::record::{Derived, Event, user_key};

/// Most bytes of a user agent that are looked at. Real ones have up to about 300; the cost of the parser's
/// expressions grows with the length.
const USER_AGENT_BYTES_MAX: usize = 1024;

/// HTTP libraries: what runs on a server names itself so at the start of its user agent. Lower-case.
const SERVER_LIBRARIES: [&str; 15] = [
    "analytics-node",
    "apache-httpclient",
    "axios",
    "curl",
    "go-http-client",
    "guzzlehttp",
    "java",
    "node",
    "php",
    "posthog-",
    "python",
    "reqwest",
    "ruby",
    "undici",
    "wget",
];

/// Derives everything. The misfit tells that the revenue property was there but is no amount.
pub fn derive(
    event: &Event,
    rules: &Events,
    properties: &Properties<'_>,
    now_ms: i64,
) -> (Derived, Option<Misfit>) {
    let agent = Agent::parse(event.user_agent.as_deref().unwrap_or_default());
    let (revenue, misfit) = match revenue_property(rules, properties).map(parse_decimal) {
        None => (None, None),
        Some(Ok(amount)) => (Some(amount.to_string()), None),
        Some(Err(misfit)) => (None, Some(misfit)),
    };
    let derived = Derived {
        created_at: now_ms,
        user_key: user_key(event),
        platform: platform(event, &agent).to_owned_lowercase(),
        browser: agent.browser.to_owned(),
        os: agent.os.to_owned(),
        device_type: agent.device_type.to_owned(),
        currency: if revenue.is_some() { currency(rules, properties) } else { String::new() },
        revenue,
        is_conversion: rules.conversions.contains(&event.event_type),
    };
    (derived, misfit)
}

fn revenue_property<'a>(rules: &Events, properties: &Properties<'a>) -> Option<&'a RawValue> {
    properties.get(&rules.revenue.as_ref()?.property)
}

/// ISO 4217 code in capitals, or nothing.
fn currency(rules: &Events, properties: &Properties<'_>) -> String {
    let property = rules.revenue.as_ref().and_then(|revenue| revenue.currency_property.as_deref());
    let text = property.and_then(|name| properties.get(name)).and_then(parse_text).unwrap_or_default();
    let is_code = text.len() == 3 && text.bytes().all(|b| b.is_ascii_alphabetic());
    if is_code { text.to_ascii_uppercase() } else { String::new() }
}

/// A platform as found, before it is written in lower case.
enum Platform<'a> {
    Said(&'a str),
    Known(&'static str),
}

impl Platform<'_> {
    fn to_owned_lowercase(&self) -> String {
        match self {
            Self::Said(text) => text.to_lowercase(),
            Self::Known(text) => (*text).to_owned(),
        }
    }
}

/// The client's word wins; without one the user agent tells.
fn platform<'a>(event: &'a Event, agent: &Agent<'_>) -> Platform<'a> {
    match event.platform.as_deref().map(str::trim) {
        Some(said) if !said.is_empty() => Platform::Said(said),
        Some(_) | None => Platform::Known(agent.platform),
    }
}

/// What a user agent tells; empty where it does not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Agent<'a> {
    /// Browser or app family, without version.
    pub browser: &'a str,
    /// Operating system family.
    pub os: &'a str,
    /// `desktop`, `mobile`, `tablet` or `bot`.
    pub device_type: &'static str,
    /// `web`, `ios`, `android` or `server`.
    pub platform: &'static str,
}

impl<'a> Agent<'a> {
    /// Reads a `User-Agent` header.
    pub fn parse(text: &'a str) -> Self {
        let text = truncate(text);
        if text.is_empty() {
            return Self::default();
        }
        let found = Parser::new().parse(text).unwrap_or_default();
        Self {
            browser: known(found.name),
            os: known(found.os),
            device_type: device_type(text, &found),
            platform: platform_of_agent(text),
        }
    }
}

fn truncate(text: &str) -> &str {
    let mut end = text.len().min(USER_AGENT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn known(text: &str) -> &str {
    if text == VALUE_UNKNOWN { "" } else { text }
}

/// woothee does not tell tablets from phones: iPads name themselves, Android tablets leave out `Mobile`.
fn device_type(text: &str, found: &WootheeResult<'_>) -> &'static str {
    let is_tablet = found.os == "iPad" || (found.os == "Android" && !text.contains("Mobile"));
    match found.category {
        "crawler" => "bot",
        "pc" => "desktop",
        "smartphone" if is_tablet && text.starts_with("Mozilla/") => "tablet",
        "smartphone" | "mobilephone" => "mobile",
        _ => "",
    }
}

/// Every browser since Netscape starts with `Mozilla/` (old Opera with its own name); what an app's own HTTP
/// stack sends names the system it runs on; the rest are HTTP libraries of servers, or unknown.
fn platform_of_agent(text: &str) -> &'static str {
    let lower = text.to_ascii_lowercase();
    let names = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if lower.starts_with("mozilla/") || lower.starts_with("opera/") {
        "web"
    } else if names(&["cfnetwork/", "iphone", "ipad", "ios "]) {
        "ios"
    } else if names(&["android", "dalvik/", "okhttp/"]) {
        "android"
    } else if SERVER_LIBRARIES.iter().any(|library| lower.starts_with(library)) {
        "server"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tells_browser_system_device_and_platform_from_a_user_agent() {
        for (text, expected) in [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
                ["Chrome", "Windows 10", "desktop", "web"],
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:127.0) Gecko/20100101 Firefox/127.0",
                ["Firefox", "Mac OSX", "desktop", "web"],
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
                ["Safari", "iPhone", "mobile", "web"],
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
                ["Safari", "iPad", "tablet", "web"],
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
                ["Chrome", "Android", "mobile", "web"],
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; SM-X700) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
                ["Chrome", "Android", "tablet", "web"],
            ),
            (
                "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                ["Googlebot", "", "bot", "web"],
            ),
            ("Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8)", ["", "Android", "mobile", "android"]),
            ("okhttp/4.12.0", ["", "", "", "android"]),
            ("Shop/2.1 CFNetwork/1494.0.7 Darwin/23.4.0", ["", "iOS", "mobile", "ios"]),
            ("python-requests/2.32", ["", "", "", "server"]),
            ("Go-http-client/1.1", ["", "", "", "server"]),
            ("teapot", ["", "", "", ""]),
            ("", ["", "", "", ""]),
        ] {
            let agent = Agent::parse(text);
            let found = [agent.browser, agent.os, agent.device_type, agent.platform];
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn cuts_an_endless_user_agent_between_characters() {
        let text = format!("{}é{}", "x".repeat(USER_AGENT_BYTES_MAX - 1), "y".repeat(5000));
        assert_eq!(truncate(&text).len(), USER_AGENT_BYTES_MAX - 1);
    }

    proptest! {
        #[test]
        fn any_user_agent_is_read_without_a_panic(
            parts in prop::collection::vec(
                prop_oneof![
                    "\\PC{0,12}",
                    prop::sample::select(vec![
                        "Mozilla/5.0 (", "Windows NT 6.1;", "Windows Phone OS 7", "Mac OS X", "Trident/7.0;",
                        "IEMobile/9;", "Firefox/", "like Gecko", "DoCoMo/2.0 ", "KDDI-", "SoftBank/1.0/",
                        "BlackBerry9700/", "PLAYSTATION 3", "Nintendo", "FreeBSD ", "CrOS ", "Opera/9 ",
                        "Version/", "bot/", "WILLCOM;", "Xbox", ")", ";", "Safari/", "CPU iPhone OS ",
                    ]).prop_map(str::to_owned),
                ],
                0..8,
            ),
        ) {
            let text = parts.concat();
            let _agent = Agent::parse(&text);
        }
    }
}
