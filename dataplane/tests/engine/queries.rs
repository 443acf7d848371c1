//! Asking: methods, formats, parameters, headers, compression, streaming, cancellation.

use std::io::Read;

use futures::StreamExt;

use crate::support::{target, wait_until_none};

#[tokio::test]
async fn ping_and_root_answer_without_a_query() {
    let target = target();
    for path in ["ping", ""] {
        let answer = target.send(target.http.get(format!("{}{path}", target.url))).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Ok.\n"), "{path}");
    }
    assert_eq!(target.send(target.http.get(format!("{}nowhere", target.url))).await.status, 404);
}

#[tokio::test]
async fn a_query_in_the_body_obeys_database_format_settings_and_parameters() {
    let target = target();
    let database = target.database("query_in_body").await;
    let pairs = [
        ("database", database.as_str()),
        ("default_format", "JSONCompactEachRow"),
        ("max_threads", "3"),
        ("param_text", r"it\'s \\ a\ttab"),
        ("param_n", "41"),
        ("query_id", "contract-query-in-body"),
    ];
    let sql = "SELECT currentDatabase(), getSetting('max_threads'), {text:String}, {n:UInt8} + 1";
    let answer = target.ask(&pairs, sql).await;
    assert_eq!(answer.header("x-clickhouse-format"), "JSONCompactEachRow");
    assert_eq!(answer.header("x-clickhouse-query-id"), "contract-query-in-body");
    assert!(!answer.header("x-clickhouse-timezone").is_empty());
    assert!(!answer.header("x-clickhouse-server-display-name").is_empty());
    assert!(answer.header("x-clickhouse-summary").starts_with("{\"read_rows\":\""));
    let row: serde_json::Value = serde_json::from_str(&answer.rows()).unwrap();
    assert_eq!(row[0], database.as_str());
    assert_eq!(row[2], "it's \\ a\ttab");
    assert_eq!(row[3].to_string().trim_matches('"'), "42");
}

#[tokio::test]
async fn a_format_in_the_query_wins_over_the_default_one() {
    let target = target();
    let answer =
        target.ask(&[("default_format", "JSON")], "SELECT 1 AS a, 'x' AS b FORMAT CSVWithNames").await;
    assert_eq!(answer.header("x-clickhouse-format"), "CSVWithNames");
    assert_eq!(answer.rows(), "\"a\",\"b\"\n1,\"x\"\n");
    assert_eq!(
        target.ask(&[], "SELECT 1 AS a FORMAT TSVWithNames SETTINGS max_threads = 1").await.rows(),
        "a\n1\n"
    );
}

#[tokio::test]
async fn query_and_body_are_one_text() {
    let target = target();
    assert_eq!(target.ask(&[("query", "SELECT 1 +")], " 1").await.rows(), "2\n");
}

#[tokio::test]
async fn a_form_carries_query_and_parameters() {
    let target = target();
    let body = "--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {a:String}\r\n\
                --B\r\nContent-Disposition: form-data; name=\"param_a\"\r\n\r\nfrom a form\r\n--B--\r\n";
    let request = target.post(&[], body).header("Content-Type", "multipart/form-data; boundary=B");
    assert_eq!(target.send(request).await.rows(), "from a form\n");
}

#[tokio::test]
async fn a_get_reads_and_never_writes() {
    let target = target();
    let database = target.database("get_reads").await;
    target.run(&format!("CREATE TABLE {database}.t (a UInt8) ENGINE = MergeTree ORDER BY a")).await;
    let get = |sql: String| target.send(target.http.get(&target.url).query(&[("query", sql)]));
    assert_eq!(get("SELECT 1 SETTINGS max_threads = 1".to_owned()).await.rows(), "1\n");
    for sql in [
        "INSERT INTO {}.t SELECT 1",
        "INSERT INTO {}.t VALUES (1)",
        "DROP TABLE {}.t",
        "CREATE TABLE {}.u (a UInt8) ENGINE = Memory",
    ] {
        assert_eq!(get(sql.replace("{}", &database)).await.code(), 164, "{sql}");
    }
    assert_eq!(target.run(&format!("SELECT count() FROM {database}.t")).await, "0");
}

#[tokio::test]
async fn readonly_forbids_writes_and_level_one_settings_too() {
    let target = target();
    let database = target.database("readonly").await;
    for level in ["1", "2"] {
        let sql = format!("CREATE TABLE {database}.t (a UInt8) ENGINE = Memory");
        assert_eq!(target.ask(&[("readonly", level)], &sql).await.code(), 164);
        assert_eq!(target.ask(&[("readonly", level)], "SELECT 1 SETTINGS readonly = 0").await.code(), 164);
        assert_eq!(target.ask(&[("readonly", level)], "SELECT 1").await.rows(), "1\n");
    }
    assert_eq!(target.ask(&[("readonly", "1")], "SELECT 1 SETTINGS max_threads = 1").await.code(), 164);
    assert_eq!(target.ask(&[("readonly", "2")], "SELECT 1 SETTINGS max_threads = 1").await.rows(), "1\n");
}

#[tokio::test]
async fn describe_tells_the_columns() {
    let target = target();
    let database = target.database("describe").await;
    target
        .run(&format!("CREATE TABLE {database}.t (a UInt8, b Nullable(String) DEFAULT 'x') ENGINE = Memory"))
        .await;
    let rows = target.run(&format!("DESCRIBE TABLE {database}.t")).await;
    let columns: Vec<Vec<&str>> = rows.lines().map(|line| line.split('\t').take(2).collect()).collect();
    assert_eq!(columns, [["a", "UInt8"], ["b", "Nullable(String)"]]);
}

#[tokio::test]
async fn every_format_is_whole_however_long_the_answer_is() {
    let target = target();
    for (format, header) in [("TSVWithNames", 1), ("CSVWithNamesAndTypes", 2), ("JSONEachRow", 0)] {
        let rows = target
            .run(&format!("SELECT number AS n, repeat('x', 20) AS s FROM numbers(200000) FORMAT {format}"))
            .await;
        assert_eq!(rows.lines().count(), 200_000 + header, "{format}");
    }
    let json = target.run("SELECT number FROM numbers(200000) FORMAT JSON").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["data"].as_array().unwrap().len(), 200_000);
    let empty = target.ask(&[], "SELECT number AS n FROM numbers(10) WHERE n > 99 FORMAT CSVWithNames").await;
    assert_eq!(empty.rows(), "\"n\"\n");
}

#[tokio::test]
async fn compress_answers_in_frames_with_right_checksums() {
    let target = target();
    let answer = target.ask(&[("compress", "1")], "SELECT number FROM numbers(300000)").await;
    assert_eq!(answer.status, 200);
    let mut content = Vec::new();
    let mut rest = &answer.body[..];
    while !rest.is_empty() {
        let (checksum, frame) = rest.split_at(16);
        let size = u32::from_le_bytes(frame[1..5].try_into().unwrap()) as usize;
        let plain = u32::from_le_bytes(frame[5..9].try_into().unwrap()) as usize;
        assert_eq!(cityhash_rs::cityhash_102_128(&frame[..size]).rotate_left(64).to_le_bytes(), checksum);
        assert_eq!(frame[0], 0x82, "LZ4");
        content.extend(lz4_flex::block::decompress(&frame[9..size], plain).unwrap());
        rest = &frame[size..];
    }
    let expected: String = (0..300_000).map(|number| format!("{number}\n")).collect();
    assert!(content == expected.as_bytes(), "{} bytes", content.len());
}

#[tokio::test]
async fn an_answer_is_gzipped_for_who_accepts_it() {
    let target = target();
    let request = target.post(&[("enable_http_compression", "1")], "SELECT number FROM numbers(300000)");
    let answer = target.send(request.header("Accept-Encoding", "gzip")).await;
    assert_eq!(answer.header("content-encoding"), "gzip");
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(&answer.body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), 300_000);
    let request =
        target.post(&[("enable_http_compression", "0")], "SELECT 1").header("Accept-Encoding", "gzip");
    assert_eq!(target.send(request).await.rows(), "1\n");
}

#[tokio::test]
async fn a_client_that_goes_away_stops_its_query() {
    let target = target();
    let pairs =
        [("cancel_http_readonly_queries_on_client_close", "1"), ("log_comment", "contract-cancel-silent")];
    let silent =
        target.post(&pairs, "SELECT count() FROM numbers(100000000000000) WHERE sipHash64(number) = 1");
    let silent = tokio::spawn(silent.send());
    let running = "SELECT count() FROM system.processes WHERE Settings['log_comment'] = ";
    while target.run(&format!("{running} 'contract-cancel-silent'")).await == "0" {}
    silent.abort();
    assert!(silent.await.is_err());
    wait_until_none(&target, &format!("{running} 'contract-cancel-silent'")).await;
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_its_query() {
    let target = target();
    let pairs =
        [("cancel_http_readonly_queries_on_client_close", "1"), ("log_comment", "contract-cancel-stream")];
    let request = target.post(&pairs, "SELECT number FROM numbers(100000000000000)");
    let mut rows = request.send().await.unwrap().bytes_stream();
    assert!(rows.next().await.unwrap().unwrap().starts_with(b"0\n"));
    drop(rows);
    wait_until_none(
        &target,
        "SELECT count() FROM system.processes WHERE Settings['log_comment'] = 'contract-cancel-stream'",
    )
    .await;
}
