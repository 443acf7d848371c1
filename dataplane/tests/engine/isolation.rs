//! Sixty-four at once, each with its own database, settings, parameters and format: nobody sees another's.

use crate::support::{Target, target};

const WAYS: usize = 64;
const ROUNDS: usize = 8;

async fn one_way(target: &Target, database: &str, way: usize) {
    let (threads, parameter) = ((way % 7 + 1).to_string(), format!("value of {way}"));
    let format = ["CSV", "TabSeparated", "JSONCompactEachRow", "Values"][way % 4];
    let delimiter = if way.is_multiple_of(2) { "|" } else { ";" };
    let id = format!("contract-isolation-{way}");
    let mut pairs = vec![
        ("database", database),
        ("param_p", &parameter),
        ("default_format", format),
        ("format_csv_delimiter", delimiter),
        ("query_id", &id),
    ];
    // Every third sends no setting at all, and must find the default.
    if !way.is_multiple_of(3) {
        pairs.push(("max_threads", &threads));
    }
    let expected_threads = if way.is_multiple_of(3) { "0" } else { &threads };
    for round in 0..ROUNDS {
        let sql = format!(
            "SELECT currentDatabase() AS d, {{p:String}} AS p, value AS v, changed AS c, {round} AS r, (SELECT a FROM mine) AS m \
             FROM system.settings WHERE name = 'max_threads'"
        );
        let answer = target.ask(&pairs, &sql).await;
        assert_eq!(answer.header("x-clickhouse-format"), format);
        let row = answer.rows();
        let fields = [database.to_owned(), parameter.clone(), round.to_string(), way.to_string()];
        for field in &fields {
            assert!(row.contains(field.as_str()), "{way}: {row}");
        }
        let changed = expected_threads != "0";
        let c = u8::from(changed);
        let tail = match format {
            "CSV" => format!("{delimiter}{c}{delimiter}{round}{delimiter}{way}\n"),
            "TabSeparated" => format!("\t{c}\t{round}\t{way}\n"),
            "JSONCompactEachRow" => format!(", {c}, {round}, {way}]\n"),
            _ => format!(",{c},{round},{way})"),
        };
        let normal = row.replace("\"", "").replace(", ", ",");
        let tail = tail.replace(", ", ",");
        assert!(normal.ends_with(&tail), "{way}: {row:?} does not end with {tail:?}");
        assert!(!changed || row.contains(expected_threads), "{way}: {row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_at_once_see_only_their_own() {
    let target = target();
    let mut databases = Vec::with_capacity(WAYS);
    for way in 0..WAYS {
        let database = target.database(&format!("isolation_{way}")).await;
        target.run(&format!("CREATE VIEW {database}.mine AS SELECT {way} AS a")).await;
        databases.push(database);
    }
    let tasks = databases.into_iter().enumerate().map(|(way, database)| {
        let target = target.clone();
        tokio::spawn(async move { one_way(&target, &database, way).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_setting_or_database_does_not_outlive_its_query() {
    let target = target();
    let database = target.database("outlive").await;
    let question = "SELECT currentDatabase(), value FROM system.settings WHERE name = 'max_block_size'";
    let before = target.run(question).await;
    target.ask(&[("database", database.as_str()), ("max_block_size", "123")], "SELECT 1").await.rows();
    target.ask(&[], "SET max_block_size = 77").await.rows();
    target.ask(&[], &format!("USE {database}")).await.rows();
    assert_eq!(target.run(question).await, before);
}

#[tokio::test]
async fn an_id_in_use_is_refused() {
    let target = target();
    let pairs = [("query_id", "contract-id-in-use"), ("log_comment", "contract-id-in-use")];
    let slow =
        target.post(&pairs, "SELECT sum(sleepEachRow(0.1)) FROM numbers(20) SETTINGS max_block_size = 1");
    let slow = tokio::spawn(slow.send());
    while target
        .run("SELECT count() FROM system.processes WHERE Settings['log_comment'] = 'contract-id-in-use'")
        .await
        == "0"
    {}
    assert_eq!(target.ask(&[("query_id", "contract-id-in-use")], "SELECT 1").await.code(), 216);
    assert_eq!(slow.await.unwrap().unwrap().status().as_u16(), 200);
    assert_eq!(target.ask(&[("query_id", "contract-id-in-use")], "SELECT 1").await.rows(), "1\n");
}
