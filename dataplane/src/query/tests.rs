//! Ranges, statements and answers, by table; no store is asked.

use jiff::civil::date;
use millrace_crds::config::AccessConfig;
use serde_json::json;

use super::range::{Range, RangeError, Rule, Step};
use super::*;
use crate::access::{Principal, decide};

const HOURS: Rule = Rule { step: Step::Hour, default_steps: 24, steps_max: 48 };
const DAYS: Rule = Rule { step: Step::Day, default_steps: 7, steps_max: 31 };

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn shop() -> AppId {
    AppId::new("default", "shop").unwrap()
}

/// An App of that name; only its name and database matter here.
fn config(name: &str) -> AppConfig {
    let config = json!({
        "format": "v1", "app": format!("default/{name}"),
        "ingest": {
            "dialects": ["native"], "writeKeys": {}, "rateLimit": null, "maxBodyBytes": 1, "maxEventBytes": 1,
            "maxBatchEvents": 1, "trustForwardedClient": false,
        },
        "events": {
            "onUndeclared": "Keep", "declared": {}, "revenue": null, "conversions": [], "dedupeWindowMs": 1,
        },
        "privacy": {
            "userIds": "Hash", "deviceIds": "Hash", "ip": "Drop", "fields": [], "requiredConsent": [],
        },
        "storage": { "database": format!("millrace_default__{name}"), "retentionSeconds": 1, "schemaHash": "" },
        "topics": [], "integrations": {},
    });
    serde_json::from_value(config).unwrap()
}

fn grant(permission: Permission) -> Grant {
    let rules: Option<&AccessConfig> = None;
    decide(rules, &Principal::BootstrapAdmin, permission, &shop()).grant().unwrap()
}

fn week() -> Range {
    Range::parse(Some("2026-01-01"), Some("2026-01-07"), DAYS, at("2026-01-04T12:00:00Z")).unwrap()
}

fn row(columns: Value) -> Row {
    columns.as_object().unwrap().clone()
}

/// Ranges as `from/to`, or the text of the error.
fn check_range(rule: Rule, cases: &[(Option<&str>, Option<&str>, &str)]) {
    for (from, to, expected) in cases {
        let found = match Range::parse(*from, *to, rule, at("2026-01-31T10:20:30Z")) {
            Ok(range) => format!("{}/{}", range.from(), range.to()),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, *expected, "{from:?} to {to:?}");
    }
}

#[test]
fn a_range_is_widened_to_whole_hours() {
    check_range(
        HOURS,
        &[
            (None, None, "2026-01-30T11:00:00Z/2026-01-31T11:00:00Z"),
            (Some("2026-01-31T09:59:59.999Z"), None, "2026-01-31T09:00:00Z/2026-01-31T11:00:00Z"),
            (Some("2026-01-30"), Some("2026-01-30"), "2026-01-30T00:00:00Z/2026-01-31T00:00:00Z"),
            (None, Some("2026-01-31T10:00:00Z"), "2026-01-30T10:00:00Z/2026-01-31T10:00:00Z"),
            (None, Some("2026-01-31T10:00:00.001Z"), "2026-01-30T11:00:00Z/2026-01-31T11:00:00Z"),
            (
                Some("2026-01-30T23:30:00+02:00"),
                Some("2026-01-31T02:00:00+02:00"),
                "2026-01-30T21:00:00Z/2026-01-31T00:00:00Z",
            ),
        ],
    );
}

#[test]
fn a_range_is_widened_to_whole_days() {
    check_range(
        DAYS,
        &[
            (None, None, "2026-01-25T00:00:00Z/2026-02-01T00:00:00Z"),
            (Some("2026-01-01"), Some("2026-01-31"), "2026-01-01T00:00:00Z/2026-02-01T00:00:00Z"),
            (
                Some("2026-01-01T23:00:00Z"),
                Some("2026-01-02T01:00:00Z"),
                "2026-01-01T00:00:00Z/2026-01-03T00:00:00Z",
            ),
            (Some("2028-02-29"), Some("2028-02-29"), "2028-02-29T00:00:00Z/2028-03-01T00:00:00Z"),
        ],
    );
}

#[test]
fn a_range_that_makes_no_sense_is_refused() {
    let not_a_time = |text: &str| format!("`from` is `{text}`, which is neither an RFC 3339 time nor a date");
    for text in [
        "",
        "yesterday",
        "2026-02-30",
        "2026-1-1",
        "20260101",
        "1767225600",
        "2026-01-01T00:00:00",
        "' OR 1=1",
    ] {
        check_range(HOURS, &[(Some(text), None, &not_a_time(text))]);
    }
    let endless = "9".repeat(5000);
    check_range(HOURS, &[(Some(&endless), None, &not_a_time(&"9".repeat(64)))]);
    let reversed = "the range starts at 2026-01-31T12:00:00Z and ends at 2026-01-31T11:00:00Z";
    let bounds = "events lie between 2000-01-01T00:00:00Z and 2100-01-01T00:00:00Z";
    check_range(
        HOURS,
        &[
            (Some("2026-01-31T12:00:00Z"), None, reversed),
            (Some("2026-01-01"), Some("2026-01-03T01:00:00Z"), "the range is 49 hours long"),
            (Some("1999-12-31"), None, &format!("`from` is 1999-12-31T00:00:00Z; {bounds}")),
            (None, Some("2100-01-01"), &format!("`to` is 2100-01-02T00:00:00Z; {bounds}")),
            (None, Some("9999-12-30T01:00:00Z"), &format!("`to` is 9999-12-30T01:00:00Z; {bounds}")),
        ],
    );
}

#[test]
fn a_plus_that_became_a_space_is_explained() {
    let error = Range::parse(Some("2026-01-30T23:30:00 02:00"), None, HOURS, at("2026-01-31T00:00:00Z"));
    assert!(error.unwrap_err().fix().contains("`%2B`"));
    let error = RangeError::TooLong { steps: 49, rule: HOURS };
    assert_eq!(error.fix(), "ask for at most 48 hours at a time");
}

#[test]
fn a_statement_needs_the_grant_of_its_question_and_app() {
    let (dashboard, analytics) = (grant(Permission::DashboardRead), grant(Permission::AnalyticsRead));
    let admin = grant(Permission::Admin);
    assert!(matches!(Scope::new(&dashboard, &config("other")), Err(QueryError::OtherApp { .. })));

    let app = config("shop");
    let scope = |grant| Scope::new(grant, &app).unwrap();
    let interval = events_over_time::Interval::Day;
    assert!(stats::statement(scope(&dashboard), week()).is_ok());
    assert!(events_over_time::statement(scope(&analytics), week(), interval, None).is_ok());
    assert!(retention::statement(scope(&analytics), week(), 8).is_ok());
    for wrong in [&analytics, &admin] {
        assert!(stats::statement(scope(wrong), week()).is_err());
    }
    for wrong in [&dashboard, &admin] {
        assert!(events_over_time::statement(scope(wrong), week(), interval, Some("a")).is_err());
        assert!(retention::statement(scope(wrong), week(), 8).is_err());
    }
}

/// Parameters as `name=text`, in order.
fn params(statement: &Statement) -> String {
    let params = statement.params().iter().map(|(name, param)| format!("{name}={}", param.to_text()));
    params.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_varies_is_a_parameter() {
    let database = "millrace_default__shop";
    let dashboard = grant(Permission::DashboardRead);
    let analytics = grant(Permission::AnalyticsRead);
    let app = config("shop");
    let scope = |grant| Scope::new(grant, &app).unwrap();
    let range = "from=2026-01-01 00:00:00";
    let statement = stats::statement(scope(&dashboard), week()).unwrap();
    assert_eq!(params(&statement), format!("database={database} {range} to=2026-01-08 00:00:00"));

    let hour = events_over_time::Interval::Hour;
    let statement = events_over_time::statement(scope(&analytics), week(), hour, None).unwrap();
    assert_eq!(params(&statement), format!("database={database} {range} step=3600 to=2026-01-08 00:00:00"));

    let hostile = "x'\\\n\t\0; DROP TABLE events --";
    let statement = events_over_time::statement(scope(&analytics), week(), hour, Some(hostile)).unwrap();
    assert!(!statement.sql().contains("DROP") && statement.sql().contains("{event_type:String}"));
    assert_eq!(
        statement.params()["event_type"].to_text(),
        "x'\\\\\\n\\t\\0; DROP TABLE events --",
        "escaped as the HTTP interface reads it"
    );

    let statement = retention::statement(scope(&analytics), week(), 8).unwrap();
    let expected = "database=millrace_default__shop days=8 from=2026-01-01 to=2026-01-08 until=2026-01-16";
    assert_eq!(params(&statement), expected);
}

#[test]
fn every_parameter_of_a_statement_is_given_and_no_other() {
    let (dashboard, analytics) = (grant(Permission::DashboardRead), grant(Permission::AnalyticsRead));
    let app = config("shop");
    let scope = |grant| Scope::new(grant, &app).unwrap();
    let day = events_over_time::Interval::Day;
    let statements = [
        stats::statement(scope(&dashboard), week()).unwrap(),
        events_over_time::statement(scope(&analytics), week(), day, None).unwrap(),
        events_over_time::statement(scope(&analytics), week(), day, Some("a")).unwrap(),
        retention::statement(scope(&analytics), week(), 8).unwrap(),
    ];
    for statement in statements {
        let used = statement.sql().split('{').skip(1).filter_map(|rest| rest.split_once(':'));
        let used: std::collections::BTreeSet<&str> = used.map(|(name, _)| name).collect();
        assert!(statement.params().keys().copied().eq(used), "{}", statement.sql());
        assert!(!statement.sql().contains("  "), "a seam shows: {}", statement.sql());
    }
}

#[test]
fn stats_divide_users_and_keep_decimals_exact() {
    let columns = json!({
        "total_events": "18446744073709551615", "active_users": 8, "conversions": 3, "converted_users": "2",
        "revenue": [["", "0.000000001"], ["EUR", "12345678901234567890123456789.95"]],
    });
    let stats = stats::answer(vec![row(columns)]).unwrap();
    assert_eq!(stats.total_events, u64::MAX);
    assert_eq!(stats.conversion_rate, Some(0.25));
    assert_eq!(stats.revenue[1].amount, "12345678901234567890123456789.95");
}

#[test]
fn nobody_active_has_no_conversion_rate() {
    let nothing = json!({
        "total_events": 0, "active_users": 0, "conversions": 0, "converted_users": 0, "revenue": [],
    });
    assert_eq!(stats::answer(vec![row(nothing)]).unwrap().conversion_rate, None);
}

#[test]
fn rows_of_another_shape_are_an_error() {
    for rows in [vec![], vec![Row::new()], vec![row(json!({ "total_events": -1 }))]] {
        assert!(matches!(stats::answer(rows), Err(QueryError::Shape { .. })));
    }
    let interval = events_over_time::Interval::Day;
    let outside = row(json!({ "start": 1, "total_events": 1, "active_users": 1 }));
    assert!(events_over_time::answer(vec![outside], week(), interval).is_err());
    let no_date = row(json!({ "cohort": "soon", "age": 0, "users": 1 }));
    assert!(retention::answer(vec![no_date], week(), 8, date(2026, 1, 8)).is_err());
}

#[test]
fn buckets_without_events_are_zero() {
    let interval = events_over_time::Interval::Day;
    let rows = vec![
        row(json!({ "start": at("2026-01-02T00:00:00Z").as_second(), "total_events": 5, "active_users": 2 })),
        row(json!({ "start": "1767744000", "total_events": "7", "active_users": "1" })),
    ];
    let buckets = events_over_time::answer(rows, week(), interval).unwrap();
    assert_eq!(buckets.iter().map(|bucket| bucket.events).collect::<Vec<_>>(), [0, 5, 0, 0, 0, 0, 7]);
    assert_eq!(buckets[6].start, at("2026-01-07T00:00:00Z"));
    assert_eq!(events_over_time::answer(vec![], week(), interval).unwrap().len(), 7);
    assert_eq!(
        events_over_time::answer(vec![], week(), events_over_time::Interval::Hour).unwrap().len(),
        168
    );
}

#[test]
fn cohorts_list_only_days_that_have_begun() {
    let rows = vec![
        row(json!({ "cohort": "2026-01-01", "age": 0, "users": 9 })),
        row(json!({ "cohort": "2026-01-01", "age": 2, "users": 4 })),
        row(json!({ "cohort": "2026-01-04", "age": 0, "users": "1" })),
    ];
    let cohorts = retention::answer(rows, week(), 3, date(2026, 1, 4)).unwrap();
    let found: Vec<_> = cohorts.iter().map(|cohort| (cohort.users, cohort.active.clone())).collect();
    let expected = [(9, vec![9, 0, 4]), (0, vec![0, 0, 0]), (0, vec![0, 0]), (1, vec![1])];
    assert_eq!(found, expected);
}
