//! What tests of the whole, in `tests/`, and the fault suite have in common.

/// For each rollup, what a recount of the events says and what the rollup says, of the database that stands for `{db}`.
pub const RECOUNTS: [(&str, &str); 2] = [
    (
        "SELECT count(), uniqExact(user_key), countIf(is_conversion) FROM {db}.events",
        "SELECT sum(events), uniqMerge(users), sum(conversions) FROM {db}.dashboard_stats",
    ),
    (
        "SELECT uniqExact(user_key, toDate(timestamp)) FROM {db}.events",
        "SELECT uniqExact(user_key, day) FROM {db}.user_retention",
    ),
];
