use crate::schema::tests::{observed, schema};
use crate::schema::{
    DASHBOARD_STATS, DASHBOARD_STATS_MV, EVENTS, Observed, ObservedTable, Pace, ROLLUPS_REBUILT, Statement,
    USER_RETENTION, USER_RETENTION_MV, diff,
};

/// There are events of two months, and a view was made from another definition.
fn changed() -> Observed {
    let mut there = observed(&schema(&[]));
    there.months = vec![202_611, 202_612];
    table(&mut there, EVENTS).rows = Some(7);
    let view = table(&mut there, USER_RETENTION_MV);
    view.as_select = view.as_select.replace("min(timestamp)", "max(timestamp)");
    view.comment = "millrace rollup of an older build".to_owned();
    there
}

fn table<'a>(observed: &'a mut Observed, name: &str) -> &'a mut ObservedTable {
    observed.tables.get_mut(name).unwrap()
}

/// Verb and name of each statement, in order.
fn outline(statements: &[Statement]) -> Vec<String> {
    let words = |text: &str| {
        let text = text.replace("`millrace_default__shop`.", "").replace('`', "");
        let text = text.replace("IF NOT EXISTS ", "").replace("IF EXISTS ", "");
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["ALTER", "TABLE", _, verb, _, name, ..] => format!("{verb} {name}"),
            ["SELECT", ..] => "wait".to_owned(),
            ["CREATE", "MATERIALIZED", "VIEW", name, ..] => format!("CREATE {name}"),
            ["EXCHANGE", _, old, _, new] => format!("EXCHANGE {old} {new}"),
            ["INSERT", "INTO", name, ..] => {
                let months = text.split("toYYYYMM(timestamp) ").nth(1).unwrap_or_default();
                let months = months.split(" GROUP").next().unwrap_or_default();
                format!("INSERT {name} {months}").trim_end().to_owned()
            }
            [verb, _, name, ..] => format!("{verb} {name}"),
            other => panic!("{other:?}"),
        }
    };
    statements.iter().map(|statement| words(&statement.text)).collect()
}

#[test]
fn a_changed_view_is_made_anew_behind_a_fence() {
    let statements = diff(Some(&changed()), &schema(&[])).unwrap();
    assert_eq!(
        outline(&statements),
        [
            "ADD millrace_paused_1",
            "wait",
            "CREATE dashboard_stats_rebuild_1",
            "INSERT dashboard_stats_rebuild_1 = 202611",
            "INSERT dashboard_stats_rebuild_1 = 202612",
            "INSERT dashboard_stats_rebuild_1 NOT IN (202611, 202612)",
            "CREATE user_retention_rebuild_1",
            "INSERT user_retention_rebuild_1 = 202611",
            "INSERT user_retention_rebuild_1 = 202612",
            "INSERT user_retention_rebuild_1 NOT IN (202611, 202612)",
            "INSERT rollups_rebuilt",
            "DROP dashboard_stats_mv",
            "EXCHANGE dashboard_stats dashboard_stats_rebuild_1",
            "CREATE dashboard_stats_mv",
            "DROP user_retention_mv",
            "EXCHANGE user_retention user_retention_rebuild_1",
            "CREATE user_retention_mv",
            "DROP millrace_paused_1",
            "DROP dashboard_stats_rebuild_1",
            "DROP user_retention_rebuild_1",
        ]
    );
    let objects =
        [EVENTS, DASHBOARD_STATS, DASHBOARD_STATS_MV, USER_RETENTION, USER_RETENTION_MV, ROLLUPS_REBUILT];
    assert!(statements.iter().all(|statement| objects.contains(&statement.object.as_str())));
    let fill = &statements[3];
    assert_eq!(fill.pace, Pace::Long);
    for part in [
        "(`hour`, `currency`, `events`, `users`, `revenue`, `conversions`, `converted_users`) SELECT `hour`, `currency`",
        "FROM `millrace_default__shop`.events WHERE toYYYYMM(timestamp) = 202611 GROUP BY hour, currency) SETTINGS",
    ] {
        assert!(fill.text.contains(part), "{part} in {}", fill.text);
    }
    let wait = &statements[1];
    assert_eq!(wait.pace, Pace::UntilZero);
    assert!(wait.text.contains("'insert into millrace_default__shop.events'"), "{}", wait.text);
}

#[test]
fn an_attempt_that_did_not_end_is_begun_anew_under_the_next_number() {
    type Left = fn(&mut Observed);
    let cases: [(Left, &[&str]); 2] = [
        (
            |there| {
                table(there, EVENTS).create_table_query =
                    "CREATE TABLE d.events (`a` UInt8, CONSTRAINT millrace_paused_4 CHECK 0) ENGINE = MergeTree"
                        .to_owned();
            },
            &["ADD millrace_paused_5", "DROP millrace_paused_4", "wait"],
        ),
        // The fence of a new attempt stands before what is left of the old one goes.
        (
            |there| {
                table(there, USER_RETENTION_MV).comment.clear();
                table(there, USER_RETENTION_MV).as_select.clear();
                there.tables.insert("user_retention_rebuild_4".to_owned(), ObservedTable::default());
            },
            &["ADD millrace_paused_5", "wait", "DROP user_retention_rebuild_4"],
        ),
    ];
    for (left, first) in cases {
        let mut there = observed(&schema(&[]));
        left(&mut there);
        let outline = outline(&diff(Some(&there), &schema(&[])).unwrap());
        assert_eq!(outline[..first.len()], *first);
        assert!(
            outline.contains(&"EXCHANGE user_retention user_retention_rebuild_5".to_owned()),
            "{outline:?}"
        );
    }
    // Behind the fence nothing but the old tables is left to do.
    let mut there = observed(&schema(&[]));
    there.tables.insert("user_retention_rebuild_4".to_owned(), ObservedTable::default());
    assert_eq!(outline(&diff(Some(&there), &schema(&[])).unwrap()), ["DROP user_retention_rebuild_4"]);
}

#[test]
fn a_fence_that_somebody_added_by_hand_has_the_rollups_made_anew() {
    let mut there = observed(&schema(&[]));
    table(&mut there, EVENTS).create_table_query =
        "CREATE TABLE d.events (`a` UInt8, CONSTRAINT `millrace_paused` CHECK false) ENGINE = MergeTree"
            .to_owned();
    let outline = outline(&diff(Some(&there), &schema(&[])).unwrap());
    assert_eq!(outline[..2], ["ADD millrace_paused_1", "DROP millrace_paused"]);
}

#[test]
fn a_rollup_that_is_missing_is_counted_where_there_are_events() {
    for missing in [USER_RETENTION_MV, USER_RETENTION] {
        for (rows, is_counted) in [(0, false), (1, true)] {
            let mut there = observed(&schema(&[]));
            table(&mut there, EVENTS).rows = Some(rows);
            there.tables.remove(missing);
            let outline = outline(&diff(Some(&there), &schema(&[])).unwrap());
            assert_eq!(
                outline.contains(&"wait".to_owned()),
                is_counted,
                "{missing}, {rows} rows: {outline:?}"
            );
            assert!(outline.contains(&format!("CREATE {missing}")), "{outline:?}");
        }
    }
}

#[test]
fn a_rollups_table_of_another_shape_is_made_anew() {
    type Change = fn(&mut ObservedTable);
    let changes: [Change; 4] = [
        |table| table.sorting_key = "day, user_key".to_owned(),
        |table| table.partition_key = "day".to_owned(),
        |table| table.engine = "MergeTree".to_owned(),
        |table| table.columns[0].kind = "String".to_owned(),
    ];
    for change in changes {
        let mut there = observed(&schema(&[]));
        change(table(&mut there, USER_RETENTION));
        table(&mut there, USER_RETENTION_MV).comment.clear();
        let outline = outline(&diff(Some(&there), &schema(&[])).unwrap());
        assert!(
            outline.contains(&"EXCHANGE user_retention user_retention_rebuild_1".to_owned()),
            "{outline:?}"
        );
    }
}
