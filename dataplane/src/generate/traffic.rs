//! What is sent: a seed and a moment in, batches of events out, each with what is expected of it.
//! Pure. The same arguments give the same bytes; ids depend on the moment too, so that a later run with the same
//! seed is not one long duplicate of the first.

use std::collections::VecDeque;

use jiff::Timestamp;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

use super::invalid::Mistake;
use super::visitor::{Visitor, pick};

/// Sessions per visitor, on average.
const VISITS: u64 = 3;
/// Events per session, on average; only to choose the number of visitors.
const SESSION_EVENTS: u64 = 6;
/// Longest session. Every session starts at least so long ago, so no event is ahead of the clock.
const SESSION_MS_MAX: i64 = 15 * 60 * 1000;
/// Age of most sessions, at most.
const FRESH_MS_MAX: i64 = 6 * 60 * 60 * 1000;
/// Age of late ones: devices that were offline.
const LATE_MS_MAX: i64 = 72 * 60 * 60 * 1000;
/// One session in so many is late.
const LATE_ONE_IN: u32 = 7;
/// Every so many events, one is sent again, as a client does that missed the answer.
const DUPLICATE_EVERY: u64 = 25;
/// Every so many events, one is invalid; the kinds take turns, so that 400 events hold each.
const INVALID_EVERY: u64 = 40;
/// Events remembered for duplicates.
const RECENT: usize = 64;

/// Id, name and category, price in hundredths.
const PRODUCTS: [(&str, &str, &str, u32); 6] = [
    ("sku-1001", "Trail Runner 3", "shoes", 12_995),
    ("sku-1002", "City Walker", "shoes", 8_990),
    ("sku-2001", "Rain Jacket", "jackets", 15_900),
    ("sku-2002", "Wool Sweater", "knitwear", 7_950),
    ("sku-3001", "Trekking Poles", "equipment", 4_999),
    ("sku-3002", "Bottle 0.7 l", "equipment", 1_995),
];

/// What one device sends in one request.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) user_agent: &'static str,
    pub(super) events: Vec<Planned>,
}

impl Batch {
    /// The request body: a single event as it is, several as a batch.
    pub(super) fn body(&self) -> String {
        match &self.events[..] {
            [event] => event.json.clone(),
            events => {
                let events: Vec<_> = events.iter().map(|event| event.json.as_str()).collect();
                format!("{{\"batch\":[{}]}}", events.join(","))
            }
        }
    }
}

/// One event and what is expected of it.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) json: String,
    pub(super) meaning: Meaning,
}

/// What is expected of an event.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// Must be accepted, and counts.
    Valid(Fact),
    /// Must be accepted, and counts only if its first copy did not arrive.
    Duplicate(Fact),
    /// Must be refused.
    Invalid(Mistake),
}

/// What an event adds to the figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) visitor: u64,
    pub(super) timestamp: i64,
    /// Amount in hundredths, for purchases.
    pub(super) revenue: Option<(&'static str, u64)>,
}

/// The batches, in the order they are sent, until the count is reached.
pub(super) struct Traffic {
    rng: Xoshiro256PlusPlus,
    seed: u64,
    now_ms: i64,
    visitors: u64,
    left: u64,
    made: u64,
    mistakes: std::iter::Cycle<std::array::IntoIter<Mistake, 10>>,
    recent: VecDeque<Planned>,
    ready: VecDeque<Batch>,
}

impl Traffic {
    pub(super) fn new(seed: u64, now: Timestamp, count: u64) -> Self {
        let now_ms = now.as_millisecond();
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed ^ now_ms.unsigned_abs().rotate_left(20)),
            seed,
            now_ms,
            visitors: (count / (VISITS * SESSION_EVENTS)).max(3),
            left: count,
            made: 0,
            mistakes: Mistake::ALL.into_iter().cycle(),
            recent: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    /// One visit; beside it, what cannot travel in the same request.
    fn visit(&mut self) {
        let number = self.rng.random_range(0..self.visitors);
        let visitor = Visitor::new(self.seed, number);
        let mut session = Session::new(&visitor, self.now_ms, &mut self.rng);
        session.play(&mut self.rng);
        let mut events = Vec::new();
        for (event, fact) in session.events {
            self.made += 1;
            if self.made.is_multiple_of(INVALID_EVERY) {
                self.add_invalid(event.clone(), visitor.device.user_agent, &mut events);
            }
            let planned = Planned { json: event.to_string(), meaning: Meaning::Valid(fact) };
            self.remember(planned.clone());
            events.push(planned);
            if self.made.is_multiple_of(DUPLICATE_EVERY) {
                events.push(self.duplicate());
            }
        }
        self.ready.push_back(Batch { user_agent: visitor.device.user_agent, events });
    }

    fn add_invalid(&mut self, event: Value, user_agent: &'static str, events: &mut Vec<Planned>) {
        let mistake = self.mistakes.next().unwrap_or(Mistake::NoEventType);
        let invalid = Planned { json: mistake.make(event), meaning: Meaning::Invalid(mistake) };
        if mistake.leaves_the_body_readable() {
            events.push(invalid);
        } else {
            self.ready.push_back(Batch { user_agent, events: vec![invalid] });
        }
    }

    fn remember(&mut self, planned: Planned) {
        self.recent.push_back(planned);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// An event that was made before, again.
    fn duplicate(&mut self) -> Planned {
        let at = self.rng.random_range(0..self.recent.len());
        let first = self.recent[at].clone();
        match first.meaning {
            Meaning::Valid(fact) => Planned { json: first.json, meaning: Meaning::Duplicate(fact) },
            Meaning::Duplicate(_) | Meaning::Invalid(_) => first,
        }
    }
}

impl Iterator for Traffic {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.left == 0 {
            return None;
        }
        if self.ready.is_empty() {
            self.visit();
        }
        let mut batch = self.ready.pop_front()?;
        batch.events.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= batch.events.len() as u64;
        Some(batch)
    }
}

/// One person's visit while it is made up.
struct Session<'a> {
    visitor: &'a Visitor,
    members: Map<String, Value>,
    clock_ms: i64,
    events: Vec<(Value, Fact)>,
}

impl<'a> Session<'a> {
    fn new(visitor: &'a Visitor, now_ms: i64, rng: &mut Xoshiro256PlusPlus) -> Self {
        let age_ms_max = if rng.random_ratio(1, LATE_ONE_IN) { LATE_MS_MAX } else { FRESH_MS_MAX };
        let session_id = format!("s-{:08x}", rng.random::<u32>());
        Self {
            visitor,
            members: visitor.session(&session_id, rng),
            clock_ms: now_ms - SESSION_MS_MAX - rng.random_range(0..age_ms_max),
            events: Vec::new(),
        }
    }

    /// Looks around, and sometimes buys: each step of the funnel loses about half.
    fn play(&mut self, rng: &mut Xoshiro256PlusPlus) {
        for _ in 0..rng.random_range(1..4_u32) {
            let (path, title) =
                pick(rng, &[("/", "Home"), ("/sale", "Sale"), ("/new", "New in"), ("/help", "Help")]);
            self.add("page_view", json!({"path": path, "title": title}), None, rng);
        }
        if rng.random_bool(0.2) {
            let search = pick(rng, &["schuhe größe 42", "rain jacket", "靴", "bottle \"0.7 l\""]);
            self.add("search", json!({"search": search, "results": rng.random_range(0..40_u32)}), None, rng);
        }
        if !rng.random_bool(0.75) {
            return;
        }
        let (product_id, name, category, cents) = pick(rng, &PRODUCTS);
        let price = decimal(u64::from(cents));
        let product =
            json!({"product_id": product_id, "name": name, "category": category, "price": number(&price)});
        self.add("product_viewed", product, None, rng);
        if !rng.random_bool(0.6) {
            return;
        }
        let quantity = rng.random_range(1..4_u64);
        self.add("add_to_cart", json!({"product_id": product_id, "quantity": quantity}), None, rng);
        if rng.random_bool(0.6) {
            self.purchase(product_id, quantity, u64::from(cents) * quantity, rng);
        }
    }

    fn purchase(&mut self, product_id: &str, quantity: u64, cents: u64, rng: &mut Xoshiro256PlusPlus) {
        // Amounts come as numbers and as text in the field; both must add up.
        let amount = decimal(cents);
        let revenue = if rng.random_bool(0.5) { number(&amount) } else { json!(amount) };
        let data = json!({
            "revenue": revenue,
            "currency": self.visitor.currency,
            "order_id": format!("order-{:010x}", rng.random::<u64>() >> 24),
            "email": self.visitor.email(),
            "items": [{"product_id": product_id, "quantity": quantity}],
        });
        self.add("purchase", data, Some((self.visitor.currency, cents)), rng);
    }

    fn add(
        &mut self,
        event_type: &str,
        data: Value,
        revenue: Option<(&'static str, u64)>,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let mut event = self.members.clone();
        event.insert("event_type".to_owned(), json!(event_type));
        event
            .insert("event_id".to_owned(), json!(uuid::Builder::from_random_bytes(rng.random()).into_uuid()));
        event.insert("timestamp".to_owned(), self.timestamp());
        event.insert("event_data".to_owned(), data);
        let fact = Fact { visitor: self.visitor.number, timestamp: self.clock_ms, revenue };
        self.events.push((Value::Object(event), fact));
        self.clock_ms += rng.random_range(2_000..60_000_i64);
    }

    /// Apps send milliseconds, web pages text.
    fn timestamp(&self) -> Value {
        match Timestamp::from_millisecond(self.clock_ms) {
            Ok(moment) if !self.members.contains_key("app_version") => json!(moment.to_string()),
            Ok(_) | Err(_) => json!(self.clock_ms),
        }
    }
}

/// Hundredths as decimal text.
pub(super) fn decimal(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// Decimal text as a JSON number.
fn number(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests;
