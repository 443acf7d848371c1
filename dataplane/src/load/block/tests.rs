use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::record::{Derived, Event, Origin, ProcessedRecord, RECORD_VERSION, event_hash};

const DAY_MS: i64 = 86_400_000;

fn event_id(offset: u64) -> Uuid {
    Uuid::from_u128(u128::from(offset) + 1)
}

fn waiting(offset: u64, bytes: usize, timestamp: i64) -> Waiting {
    let event = Event {
        event_id: event_id(offset),
        event_type: "view".to_owned(),
        timestamp,
        received_at: 0,
        user_id: None,
        anonymous_id: None,
        device_id: None,
        session_id: None,
        platform: None,
        app_version: None,
        attribution: None,
        consent: None,
        ip: None,
        user_agent: None,
        trace_id: None,
        event_data: None,
    };
    let derived = Derived {
        created_at: 0,
        user_key: 0,
        platform: String::new(),
        browser: String::new(),
        os: String::new(),
        device_type: String::new(),
        revenue: None,
        currency: String::new(),
        is_conversion: false,
    };
    let origin = Origin { instance: "i".to_owned(), minute: 0, replay: 0 };
    Waiting {
        offset,
        appended_at: 0,
        bytes,
        id_hash: event_hash(&event.event_id),
        record: Record::Event(ProcessedRecord { v: RECORD_VERSION, event, origin, derived }),
    }
}

fn limits(rows_max: usize, bytes_max: usize, months_max: usize) -> Limits {
    Limits { rows_max, bytes_max, months_max, ..Limits::default() }
}

#[test]
fn cuts_at_the_first_limit_reached() {
    let cases = [
        ("rows", limits(2, 1000, 9), [1, 1, 1], [0, 0, 0], 2),
        ("bytes", limits(9, 10, 9), [4, 6, 1], [0, 0, 0], 2),
        ("one that is too large alone", limits(9, 10, 9), [11, 1, 1], [0, 0, 0], 1),
        ("months", limits(9, 1000, 2), [1, 1, 1], [0, 31 * DAY_MS, 62 * DAY_MS], 2),
        ("months that return", limits(9, 1000, 2), [1, 1, 1], [0, 31 * DAY_MS, DAY_MS], 3),
        ("times beyond the calendar", limits(9, 1000, 1), [1, 1, 1], [i64::MAX, i64::MIN, i64::MAX], 3),
        ("all fit", limits(9, 1000, 9), [1, 1, 1], [0, 0, 0], 3),
    ];
    for (name, limits, bytes, times, expected) in cases {
        let mut queue: VecDeque<Waiting> =
            (0..3).map(|i| waiting(10 + i as u64, bytes[i], times[i])).collect();
        let block = cut(7, &mut queue, &limits).unwrap();
        assert_eq!(block.records.len(), expected, "{name}");
        assert_eq!(block.range, Range { start: 7, end: 10 + expected as u64 }, "{name}");
        assert_eq!(queue.len(), 3 - expected, "{name}");
    }
    assert!(cut(0, &mut VecDeque::new(), &limits(1, 1, 1)).is_none());
}

#[test]
fn is_due_by_rows_bytes_or_age_and_never_when_empty() {
    let limits = Limits { rows_max: 2, bytes_max: 100, age_max: Duration::from_secs(1), ..Limits::default() };
    let one: VecDeque<Waiting> = [waiting(0, 1, 0)].into();
    let two: VecDeque<Waiting> = [waiting(0, 1, 0), waiting(1, 1, 0)].into();
    let young = Duration::from_millis(999);
    assert!(!is_due(&one, 99, young, &limits));
    assert!(is_due(&two, 2, young, &limits));
    assert!(is_due(&one, 100, young, &limits));
    assert!(is_due(&one, 1, Duration::from_secs(1), &limits));
    assert!(!is_due(&VecDeque::new(), 0, Duration::from_secs(9), &limits));
}

proptest! {
    #[test]
    fn blocks_respect_limits_and_lose_nothing(
        records in prop::collection::vec((1_u64..4, 1_usize..40, 0_i64..400), 1..60),
        rows_max in 1_usize..10,
        bytes_max in 1_usize..100,
        months_max in 1_usize..4,
        start in 0_u64..5,
    ) {
        let limits = limits(rows_max, bytes_max, months_max);
        let mut offset = start;
        let mut queue = VecDeque::new();
        for &(gap, bytes, day) in &records {
            offset += gap;
            queue.push_back(waiting(offset, bytes, day * DAY_MS));
        }
        let sent: Vec<u64> = queue.iter().map(|w| w.offset).collect();
        let whole_sum = sent.iter().map(|&offset| event_hash(&event_id(offset))).fold(0, u64::wrapping_add);

        let (mut next, mut stored, mut sum) = (start, Vec::new(), 0_u64);
        while let Some(block) = cut(next, &mut queue, &limits) {
            prop_assert_eq!(block.range.start, next);
            prop_assert!(block.records.iter().all(|w| (next..block.range.end).contains(&w.offset)));
            prop_assert!(block.records.len() <= rows_max);
            let bytes: usize = block.records.iter().map(|w| w.bytes).sum();
            prop_assert!(bytes <= bytes_max || block.records.len() == 1);
            let months: BTreeSet<_> = block.records.iter().map(|w| month(w.record.moment())).collect();
            prop_assert!(months.len() <= months_max);
            sum = sum.wrapping_add(block.id_sum());
            stored.extend(block.records.iter().map(|w| w.offset));
            next = block.range.end;
        }
        prop_assert_eq!(stored, sent);
        prop_assert_eq!(sum, whole_sum);
    }
}
