use super::*;
use crate::config::{DeclaredEvent, OnUndeclared, Property, PropertyType};
use crate::names::TopicKind;

fn events(properties: &[(&str, PropertyType)]) -> Events {
    let properties = properties
        .iter()
        .map(|&(name, kind)| (name.to_owned(), Property { kind, required: false }))
        .collect();
    Events {
        on_undeclared: OnUndeclared::Keep,
        declared: [("purchase".to_owned(), DeclaredEvent { properties })].into(),
        revenue: None,
        conversions: ["purchase".to_owned()].into(),
        dedupe_window_ms: 1,
    }
}

pub(super) fn schema(properties: &[(&str, PropertyType)]) -> Schema {
    desired("millrace_default__shop", &events(properties), 86_400)
}

/// What ClickHouse 26.5 shows after the statements of `diff(None, schema)`.
pub(super) fn observed(schema: &Schema) -> Observed {
    let table = |table: &Table| {
        let ttl = table.ttl.as_ref().map(|ttl| format!(" TTL {ttl}")).unwrap_or_default();
        let observed = ObservedTable {
            engine: table.engine.clone(),
            engine_full: format!(
                "{} PARTITION BY {} ORDER BY ({}){ttl} SETTINGS {}, index_granularity = 8192",
                table.engine,
                table.partition_by,
                table.order_by,
                sql::settings(table.settings.iter())
            ),
            partition_key: table.partition_by.clone(),
            sorting_key: table.order_by.clone(),
            columns: table.columns.clone(),
            rows: Some(0),
            ..ObservedTable::default()
        };
        (table.name.clone(), observed)
    };
    let view = |view: &View| {
        let observed = ObservedTable {
            engine: "MaterializedView".to_owned(),
            as_select: view.select.replace('`', ""),
            create_table_query: format!(
                "CREATE MATERIALIZED VIEW {0}.{1} TO {0}.{2} (`a` String) AS {3}",
                schema.database, view.name, view.target, view.select
            ),
            comment: schema.definition(view),
            ..ObservedTable::default()
        };
        (view.name.clone(), observed)
    };
    let tables = schema.tables.iter().map(table).chain(schema.views.iter().map(view)).collect();
    Observed { tables, months: vec![] }
}

fn texts(statements: &[Statement]) -> Vec<&str> {
    statements.iter().map(|statement| statement.text.as_str()).collect()
}

#[test]
fn creates_tables_before_the_views_that_read_them() {
    let schema = schema(&[("price", PropertyType::Decimal)]);
    let statements = diff(None, &schema).unwrap();
    let objects: Vec<&str> = statements.iter().map(|s| s.object.as_str()).collect();
    assert_eq!(
        objects,
        [
            EVENTS,
            DASHBOARD_STATS,
            USER_RETENTION,
            DEAD_LETTERS,
            LEDGER,
            ROLLUPS_REBUILT,
            DASHBOARD_STATS_MV,
            USER_RETENTION_MV
        ]
    );
    let create = &statements[0].text;
    for part in [
        "CREATE TABLE IF NOT EXISTS `millrace_default__shop`.`events` (`timestamp` DateTime64(3, 'UTC')",
        "`p_price` Nullable(Decimal(38, 9))",
        "ORDER BY (event_type, toDate(timestamp), user_key, timestamp)",
        "TTL toDateTime(timestamp) + toIntervalSecond(86400)",
        "non_replicated_deduplication_window = 20000",
    ] {
        assert!(create.contains(part), "{part} in {create}");
    }
}

#[test]
fn every_table_remembers_inserts_and_syncs_them() {
    for table in schema(&[]).tables {
        for setting in ["non_replicated_deduplication_window", "fsync_after_insert", "fsync_part_directory"] {
            assert_ne!(
                table.settings.get(setting).map_or("0", String::as_str),
                "0",
                "{}: {setting}",
                table.name
            );
        }
    }
}

#[test]
fn finds_nothing_to_do_when_everything_is_there() {
    let schema = schema(&[("price", PropertyType::Decimal), ("seen", PropertyType::Timestamp)]);
    assert_eq!(diff(Some(&observed(&schema)), &schema), Ok(vec![]));
}

#[test]
fn adds_a_column_and_keeps_one_whose_property_left() {
    let before = schema(&[("colour", PropertyType::String)]);
    let after = schema(&[("size", PropertyType::Integer)]);
    let statements = diff(Some(&observed(&before)), &after).unwrap();
    assert_eq!(
        texts(&statements),
        ["ALTER TABLE `millrace_default__shop`.`events` ADD COLUMN IF NOT EXISTS `p_size` Nullable(Int64) \
          AFTER `log_offset`"]
    );
}

#[test]
fn changes_retention_and_settings_in_place() {
    let before = schema(&[]);
    let mut after = desired("millrace_default__shop", &events(&[]), 3_600);
    after.tables[0].settings.insert("non_replicated_deduplication_window".to_owned(), "7".to_owned());
    let statements = diff(Some(&observed(&before)), &after).unwrap();
    let first_two = &texts(&statements)[..2];
    assert_eq!(
        first_two,
        [
            "ALTER TABLE `millrace_default__shop`.`events` MODIFY TTL toDateTime(timestamp) + toIntervalSecond(3600)",
            "ALTER TABLE `millrace_default__shop`.`events` MODIFY SETTING non_replicated_deduplication_window = 7",
        ]
    );
    assert_eq!(statements.len(), 7, "one TTL per table and one setting");
}

#[test]
fn a_window_outlasts_what_the_partitions_insert() {
    let topic = |partitions| Topic {
        kind: TopicKind::EventsProcessed,
        name: "t".to_owned(),
        partitions,
        retention_ms: 1,
        retention_bytes: None,
    };
    for (partitions, window) in
        [(1, DEDUPLICATION_WINDOW), (11, DEDUPLICATION_WINDOW), (12, 21_600), (100, 180_000)]
    {
        let sized = schema(&[]).sized_for(&[topic(partitions)]);
        let others = [DEAD_LETTERS, LEDGER];
        for table in sized.tables.iter().filter(|table| !others.contains(&table.name.as_str())) {
            let found = &observed(&sized).tables[&table.name];
            let needed = repeat_horizon_inserts(partitions);
            let [memory] = remembers(&found.engine_full, needed)[..] else { panic!() };
            assert_eq!(memory.value, window, "{partitions} partitions, `{}`", table.name);
            assert!(memory.value >= memory.needed);
        }
    }
}

#[test]
fn a_table_remembers_by_the_settings_of_its_engine() {
    let plain = "non_replicated_deduplication_window";
    let (window, seconds) = ("replicated_deduplication_window", "replicated_deduplication_window_seconds");
    let replicated = "ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}') ORDER BY a";
    let both = format!("{replicated} SETTINGS {window} = 7, {seconds} = 60, {plain} = 900000");
    let cases: [(&str, &[(&str, u32)]); 7] = [
        ("MergeTree ORDER BY a", &[(plain, 0)]),
        (
            "MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 9, index_granularity = 8192",
            &[(plain, 9)],
        ),
        ("MergeTree ORDER BY a SETTINGS replicated_deduplication_window = 9", &[(plain, 0)]),
        (replicated, &[(window, 10_000), (seconds, 3_600)]),
        (&both, &[(window, 7), (seconds, 60)]),
        (
            "ReplicatedAggregatingMergeTree ORDER BY a SETTINGS replicated_deduplication_window_seconds = 60",
            &[(window, 10_000), (seconds, 60)],
        ),
        (
            "SharedMergeTree ORDER BY a SETTINGS replicated_deduplication_window = 60",
            &[(window, 60), (seconds, 3_600)],
        ),
    ];
    for (engine_full, expected) in cases {
        let found: Vec<_> = remembers(engine_full, 1).iter().map(|m| (m.setting, m.value)).collect();
        assert_eq!(found, expected, "{engine_full}");
    }
}

#[test]
fn a_retention_beyond_the_end_of_datetime_sets_no_ttl() {
    let forever = desired("d", &events(&[]), TTL_SECONDS_MAX + 1);
    assert!(forever.tables.iter().all(|table| table.ttl.is_none()));
    let statements = diff(Some(&observed(&desired("d", &events(&[]), 60))), &forever).unwrap();
    assert_eq!(statements[0].text, "ALTER TABLE `d`.`events` REMOVE TTL");
}

#[test]
fn refuses_another_type_showing_both_definitions() {
    let before = schema(&[("price", PropertyType::Decimal), ("size", PropertyType::Integer)]);
    let after = schema(&[("price", PropertyType::String), ("size", PropertyType::Integer)]);
    let refused = diff(Some(&observed(&before)), &after).unwrap_err();
    assert_eq!(refused.differences.len(), 1);
    assert_eq!(refused.differences[0].conflicts, ["column `p_price`"]);
    let text = refused.to_string();
    let line = text.lines().find(|line| line.starts_with('!')).unwrap();
    assert!(line.contains("`p_price` Nullable(Decimal(38, 9))"), "{line}");
    assert!(line.trim_end().ends_with("| `p_price` Nullable(String)"), "{line}");
    assert!(text.contains("  `p_size` Nullable(Int64)"), "what agrees is shown too: {text}");
    assert!(text.contains("put the declaration back"), "{text}");
}

#[test]
fn refuses_another_order_partition_or_engine_and_a_rollup_that_was_made_as_wanted_but_is_another() {
    let schema = schema(&[]);
    type Change = fn(&mut Observed);
    let cases: [(&str, Change); 5] = [
        ("ORDER BY", |o| table(o, EVENTS).sorting_key = "timestamp".to_owned()),
        ("PARTITION BY", |o| table(o, EVENTS).partition_key = "toDate(timestamp)".to_owned()),
        ("ENGINE", |o| table(o, EVENTS).engine = "ReplacingMergeTree".to_owned()),
        ("TO", |o| {
            let view = table(o, DASHBOARD_STATS_MV);
            view.create_table_query = view.create_table_query.replace("dashboard_stats (", "other (");
        }),
        ("part 2", |o| {
            let view = table(o, USER_RETENTION_MV);
            view.as_select = view.as_select.replace("toDate(timestamp) AS day", "today() AS day");
        }),
    ];
    for (conflict, change) in cases {
        let mut there = observed(&schema);
        change(&mut there);
        let refused = diff(Some(&there), &schema).expect_err(conflict);
        assert!(refused.differences[0].conflicts.iter().any(|c| c == conflict), "{conflict}: {refused}");
    }
}

fn table<'a>(observed: &'a mut Observed, name: &str) -> &'a mut ObservedTable {
    observed.tables.get_mut(name).unwrap()
}

#[test]
fn the_hash_follows_what_is_declared_and_nothing_else() {
    let one = schema(&[("price", PropertyType::Decimal)]);
    assert_eq!(one.hash(), schema(&[("price", PropertyType::Decimal)]).hash());
    assert_ne!(one.hash(), schema(&[("price", PropertyType::String)]).hash());
    assert_ne!(one.hash(), schema(&[]).hash());
    let mut conversions = events(&[("price", PropertyType::Decimal)]);
    conversions.conversions.clear();
    assert_eq!(one.hash(), desired("millrace_default__shop", &conversions, 86_400).hash());
}

#[test]
fn quotes_what_could_break_out() {
    let schema = schema(&[("a`b\\", PropertyType::String)]);
    let statements = diff(None, &schema).unwrap();
    assert!(statements[0].text.contains("`p_a\\`b\\\\` Nullable(String)"), "{}", statements[0].text);
    assert_eq!(literal("it's \\"), "'it\\'s \\\\'");
}

#[test]
fn an_owner_holds_adopts_or_is_refused() {
    let owner = |cluster: &str, app: &str, uid: &str| Owner {
        cluster: cluster.to_owned(),
        namespace: "team-a".to_owned(),
        app: app.to_owned(),
        uid: uid.to_owned(),
    };
    let ours = owner("c1", "shop", "u1");
    let comment = |owner: &Owner| serde_json::to_string(owner).unwrap();
    assert!(matches!(claim("d", None, &ours), Ok(Claim::Create(_))));
    assert_eq!(claim("d", Some(&comment(&ours)), &ours), Ok(Claim::Held));
    let again = owner("c1", "shop", "u2");
    assert!(matches!(claim("d", Some(&comment(&ours)), &again), Ok(Claim::Adopt(_))));
    for stranger in [owner("c2", "shop", "u1"), owner("c1", "cart", "u1")] {
        let text = claim("d", Some(&comment(&stranger)), &ours).unwrap_err().to_string();
        assert!(text.contains(&stranger.app) && text.contains("`team-a/shop` (uid `u1`)"), "{text}");
    }
    let text = claim("d", Some("made by hand"), &ours).unwrap_err().to_string();
    assert!(text.contains("somebody outside Millrace"), "{text}");
}
