use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::admit::{self, RequestContext};

const NOW_MS: i64 = 1_767_323_045_000;

fn batches(seed: u64, now_ms: i64, count: u64) -> Vec<Batch> {
    Traffic::new(seed, Timestamp::from_millisecond(now_ms).unwrap(), count).collect()
}

fn bodies(batches: &[Batch]) -> Vec<String> {
    batches.iter().map(Batch::body).collect()
}

#[test]
fn the_same_seed_and_moment_give_the_same_bytes_and_any_other_do_not() {
    let first = bodies(&batches(7, NOW_MS, 500));
    assert_eq!(first, bodies(&batches(7, NOW_MS, 500)));
    assert_ne!(first, bodies(&batches(8, NOW_MS, 500)));
    let ids = |batches: &[Batch]| -> BTreeSet<String> {
        let events = batches.iter().flat_map(|batch| &batch.events);
        events
            .filter_map(|event| serde_json::from_str::<Value>(&event.json).ok())
            .map(|event| event["event_id"].to_string())
            .collect()
    };
    assert!(ids(&batches(7, NOW_MS, 500)).is_disjoint(&ids(&batches(7, NOW_MS + 1, 500))));
}

#[test]
fn sends_as_many_as_asked_for_with_every_kind_among_them() {
    for count in [1, 2, 17, 1_000] {
        assert_eq!(
            batches(1, NOW_MS, count).iter().map(|batch| batch.events.len() as u64).sum::<u64>(),
            count
        );
    }
    let batches = batches(1, NOW_MS, 1_000);
    let events: Vec<_> = batches.iter().flat_map(|batch| &batch.events).collect();
    for mistake in Mistake::ALL {
        assert!(events.iter().any(|event| matches!(event.meaning, Meaning::Invalid(it) if it == mistake)));
    }
    assert!(events.iter().filter(|event| matches!(event.meaning, Meaning::Duplicate(_))).count() > 20);
    assert!(batches.iter().map(|batch| batch.user_agent).collect::<BTreeSet<_>>().len() > 4);
    for event_type in ["page_view", "search", "product_viewed", "add_to_cart", "purchase"] {
        assert!(events.iter().any(|event| event.json.contains(&format!("\"event_type\":\"{event_type}\""))));
    }
}

#[test]
fn nothing_happens_in_the_future_nor_long_ago_and_some_is_late() {
    let mut late = 0;
    for event in batches(3, NOW_MS, 5_000).iter().flat_map(|batch| &batch.events) {
        let (Meaning::Valid(fact) | Meaning::Duplicate(fact)) = &event.meaning else { continue };
        assert!((NOW_MS - LATE_MS_MAX - SESSION_MS_MAX..NOW_MS).contains(&fact.timestamp));
        late += u32::from(fact.timestamp < NOW_MS - FRESH_MS_MAX - SESSION_MS_MAX);
    }
    assert!(late > 100);
}

/// The generator's own idea of valid, against admission itself.
#[test]
fn admission_agrees_with_what_is_meant() {
    let app = admit::tests::app(|_| {});
    let mut revenue = BTreeMap::<String, f64>::new();
    let mut expected = BTreeMap::<String, f64>::new();
    for batch in batches(5, NOW_MS, 4_000) {
        let mut context = RequestContext {
            received_at: Timestamp::from_millisecond(NOW_MS).unwrap(),
            client_ip: None,
            user_agent: Some(batch.user_agent),
            trace_id: "",
            ids: &mut || panic!("every event has an id"),
        };
        let answers = admit::admit_body(&app, batch.body().as_bytes(), &mut context);
        let Ok(answers) = answers else {
            assert!(matches!(batch.events[..], [Planned { meaning: Meaning::Invalid(Mistake::CutOff), .. }]));
            continue;
        };
        for (planned, answer) in batch.events.iter().zip(answers) {
            match (&planned.meaning, answer) {
                (Meaning::Valid(fact) | Meaning::Duplicate(fact), Ok(admitted)) => {
                    assert_eq!(admitted.event.timestamp, fact.timestamp);
                    let data = admitted.event.event_data.unwrap();
                    let data: Value = serde_json::from_str(data.get()).unwrap();
                    let amount = &data["revenue"];
                    let amount = amount.as_f64().or_else(|| amount.as_str()?.parse().ok());
                    assert_eq!(amount.is_some(), fact.revenue.is_some());
                    if let (Some(amount), Some((currency, cents))) = (amount, fact.revenue) {
                        assert_eq!(data["currency"], currency);
                        *revenue.entry(currency.to_owned()).or_default() += amount;
                        *expected.entry(currency.to_owned()).or_default() += cents as f64 / 100.0;
                    }
                }
                (Meaning::Invalid(_), Err(_)) => {}
                (meaning, answer) => panic!("{meaning:?} {answer:?} {}", planned.json),
            }
        }
    }
    assert!(!revenue.is_empty());
    for (currency, amount) in revenue {
        assert!((amount - expected[&currency]).abs() < 0.001);
    }
}

#[test]
fn hundredths_become_decimal_text() {
    for (cents, expected) in [(0, "0.00"), (5, "0.05"), (1_995, "19.95"), (100_000, "1000.00")] {
        assert_eq!(decimal(cents), expected);
    }
}
