//! The official `clickhouse` crate, unmodified, against the same interface.

use clickhouse::{Client, Compression, Row};
use serde::{Deserialize, Serialize};

use crate::support::target;

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Event {
    id: u64,
    name: String,
    tags: Vec<String>,
    score: Option<f64>,
}

fn event(id: u64) -> Event {
    let score = id.is_multiple_of(2).then_some(0.5);
    Event {
        id,
        name: format!("event \n\n {id}"),
        tags: vec!["a".to_owned(); usize::try_from(id % 3).unwrap()],
        score,
    }
}

async fn client(name: &str, compression: Compression) -> Client {
    let target = target();
    let database = target.database(name).await;
    let columns = "(id UInt64, name String, tags Array(String), score Nullable(Float64))";
    target.run(&format!("CREATE TABLE {database}.events {columns} ENGINE = MergeTree ORDER BY id")).await;
    Client::default().with_url(&target.url).with_database(database).with_compression(compression)
}

async fn inserts_and_reads(client: Client) {
    let mut insert = client.insert::<Event>("events").await.unwrap();
    for id in 0..10_000 {
        insert.write(&event(id)).await.unwrap();
    }
    insert.end().await.unwrap();
    let read: Vec<Event> = client
        .query("SELECT ?fields FROM events WHERE id >= {from:UInt64} AND name LIKE ? ORDER BY id")
        .bind("event%")
        .param("from", 5)
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(read, (5..10_000).map(event).collect::<Vec<_>>());
    let count: u64 = client
        .query("SELECT count() FROM events")
        .with_setting("max_threads", "1")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(count, 10_000);
}

#[tokio::test]
async fn the_official_client_inserts_and_reads_plainly() {
    inserts_and_reads(client("client_plain", Compression::None).await).await;
}

#[tokio::test]
async fn the_official_client_inserts_and_reads_compressed() {
    inserts_and_reads(client("client_lz4", Compression::Lz4).await).await;
}

#[tokio::test]
async fn the_official_client_streams_rows_of_a_long_answer() {
    let client = client("client_stream", Compression::Lz4).await;
    let mut rows = client.query("SELECT number FROM numbers(3000000)").fetch::<u64>().unwrap();
    let mut sum = 0;
    while let Some(number) = rows.next().await.unwrap() {
        sum += number;
    }
    assert_eq!(sum, 2_999_999 * 3_000_000 / 2);
}

#[tokio::test]
async fn the_official_client_inserts_formatted_rows() {
    let client = client("client_formatted", Compression::None).await;
    let mut insert = client.insert_formatted_with("INSERT INTO events (id, name) FORMAT JSONEachRow");
    insert
        .send(bytes::Bytes::from_static(b"{\"id\":1,\"name\":\"x\"}\n{\"id\":2,\"name\":\"y\"}\n"))
        .await
        .unwrap();
    insert.end().await.unwrap();
    let names: Vec<String> = client.query("SELECT name FROM events ORDER BY id").fetch_all().await.unwrap();
    assert_eq!(names, ["x", "y"]);
}

#[tokio::test]
async fn the_official_client_drops_an_insert_without_a_trace() {
    let client = client("client_dropped", Compression::Lz4).await;
    let mut insert = client.insert::<Event>("events").await.unwrap();
    insert.write(&event(1)).await.unwrap();
    drop(insert);
    let count: u64 = client.query("SELECT count() FROM events").fetch_one().await.unwrap();
    assert_eq!(count, 0);
}

#[tokio::test]
async fn the_official_client_sees_errors_before_and_after_the_first_rows() {
    for compression in [Compression::None, Compression::Lz4] {
        let client = client("client_errors", compression).await;
        let early = client.query("SELECT * FROM nowhere").execute().await.unwrap_err().to_string();
        assert!(early.contains("Code: 60."), "{early}");
        let sql = "SELECT number + toUInt64(throwIf(number = 600000)) FROM numbers(700000) SETTINGS max_threads = 1";
        let mut rows = client.query(sql).fetch::<u64>().unwrap();
        let late = loop {
            match rows.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the error was lost"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(late.contains("Code: 395."), "{late}");
    }
}
