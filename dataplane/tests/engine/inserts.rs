//! Inserting: every way rows can come, and bodies that must not be taken.

use std::io::Write;

use crate::support::{Target, target};

/// Table `t (a UInt64, s String DEFAULT 'none')` in an own database.
async fn table(target: &Target, name: &str) -> String {
    let database = target.database(name).await;
    let columns = "(a UInt64, s String DEFAULT 'none')";
    target.run(&format!("CREATE TABLE {database}.t {columns} ENGINE = MergeTree ORDER BY a")).await;
    format!("{database}.t")
}

async fn rows(target: &Target, table: &str) -> String {
    target.run(&format!("SELECT a, s FROM {table} ORDER BY a FORMAT CSV")).await
}

fn chunked(pieces: &[&[u8]]) -> reqwest::Body {
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        pieces.iter().map(|piece| Ok(piece.to_vec())).collect();
    reqwest::Body::wrap_stream(futures::stream::iter(pieces))
}

#[tokio::test]
async fn rows_come_in_many_formats_as_a_chunked_body() {
    let target = target();
    let table = table(&target, "formats").await;
    let check = async |format: &str, columns: &str, body: reqwest::Body, expected: &str| {
        target.run(&format!("TRUNCATE TABLE {table}")).await;
        let answer =
            target.insert(&format!("INSERT INTO {table} {columns} FORMAT {format}"), &[], body).await;
        assert_eq!(answer.status, 200, "{format}: {}", answer.text());
        assert_eq!(rows(&target, &table).await, expected, "{format}");
    };
    check(
        "JSONEachRow",
        "",
        chunked(&[b"{\"a\":1,\"s\"", b":\"x\"}\n", b"{\"a\":2}"]),
        "1,\"x\"\n2,\"none\"",
    )
    .await;
    check("CSV", "(s, a)", chunked(&[b"\"x\ny\",1\n"]), "1,\"x\ny\"").await;
    check("TabSeparated", "", chunked(&[b"7\tt;-- x\n"]), "7,\"t;-- x\"").await;
    check(
        "RowBinary",
        "(a)",
        chunked(&[&1_u64.to_le_bytes(), &2_u64.to_le_bytes()]),
        "1,\"none\"\n2,\"none\"",
    )
    .await;
    let blank_line = [&0x0a0a_u64.to_le_bytes()[..], b"\x03\n\n;"].concat();
    check("RowBinary", "(a, s)", chunked(&[&blank_line]), "2570,\"\n\n;\"").await;
    check("Values", "", chunked(&[b"(1, 'x'), (1 + 1, upper('y'))"]), "1,\"x\"\n2,\"Y\"").await;
    check("RowBinary", "", chunked(&[]), "").await;
}

#[tokio::test]
async fn binary_answers_can_be_inserted_again() {
    let target = target();
    let table = table(&target, "binary").await;
    for format in ["Native", "RowBinaryWithNamesAndTypes", "Parquet", "ArrowStream"] {
        target.run(&format!("TRUNCATE TABLE {table}")).await;
        let source = target
            .ask(
                &[],
                &format!("SELECT number AS a, toString(number) AS s FROM numbers(100000) FORMAT {format}"),
            )
            .await;
        assert_eq!(source.status, 200, "{format}");
        let answer = target.insert(&format!("INSERT INTO {table} FORMAT {format}"), &[], source.body).await;
        assert_eq!(answer.status, 200, "{format}: {}", answer.text());
        let sums = target.run(&format!("SELECT count(), sum(a), uniqExact(s) FROM {table}")).await;
        assert_eq!(sums, "100000\t4999950000\t100000", "{format}");
    }
}

#[tokio::test]
async fn rows_may_follow_the_statement() {
    let target = target();
    let table = table(&target, "inline").await;
    let check = async |sql: String, expected: &str| {
        target.run(&format!("TRUNCATE TABLE {table}")).await;
        let answer = target.ask(&[], &sql).await;
        assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
        assert_eq!(rows(&target, &table).await, expected, "{sql}");
    };
    check(format!("INSERT INTO {table} VALUES (1, 'a;b'), (2, 'it''s')"), "1,\"a;b\"\n2,\"it's\"").await;
    check(format!("INSERT INTO {table} (a) VALUES\n(1),\n\n(2)"), "1,\"none\"\n2,\"none\"").await;
    check(
        format!("INSERT INTO {table} FORMAT JSONEachRow\n{{\"a\": 3}}\n\n{{\"a\": 4}}"),
        "3,\"none\"\n4,\"none\"",
    )
    .await;
    check(
        format!("INSERT INTO {table} SETTINGS input_format_null_as_default = 1 FORMAT CSV\n5,x"),
        "5,\"x\"",
    )
    .await;
    check(format!("INSERT INTO {table} SELECT number, 'n' FROM numbers(2)"), "0,\"n\"\n1,\"n\"").await;
    check(format!("/* c */ INSERT INTO {table} -- d\n (a) VALUES (9)"), "9,\"none\"").await;
}

#[tokio::test]
async fn the_summary_counts_what_was_written() {
    let target = target();
    let table = table(&target, "summary").await;
    let answer = target
        .insert(&format!("INSERT INTO {table} (a) FORMAT CSV"), &[("wait_end_of_query", "1")], "1\n2\n3\n")
        .await;
    assert!(answer.header("x-clickhouse-summary").contains("\"written_rows\":\"3\""), "{answer:?}");
}

#[tokio::test]
async fn settings_of_the_request_hold_for_the_rows() {
    let target = target();
    let table = table(&target, "settings").await;
    let sql = format!("INSERT INTO {table} FORMAT CSV");
    let answer = target.insert(&sql, &[("format_csv_delimiter", "|")], "1|x\n").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(rows(&target, &table).await, "1,\"x\"");
}

#[tokio::test]
async fn a_bad_row_refuses_all_rows() {
    let target = target();
    let table = table(&target, "bad_row").await;
    let mut body: String = (0..100_000).map(|number| format!("{number}\tx\n")).collect();
    body.push_str("not a number\tx\n");
    assert_eq!(target.insert(&format!("INSERT INTO {table} FORMAT TSV"), &[], body).await.status, 400);
    let cut = [&1_u64.to_le_bytes()[..], b"\x05ab"].concat();
    assert_eq!(target.insert(&format!("INSERT INTO {table} FORMAT RowBinary"), &[], cut).await.code(), 33);
    assert_eq!(target.insert(&format!("INSERT INTO {table}_no FORMAT TSV"), &[], "1\tx\n").await.code(), 60);
    assert_eq!(rows(&target, &table).await, "");
}

#[tokio::test]
async fn an_incomplete_body_inserts_nothing() {
    let target = target();
    let table = table(&target, "incomplete").await;
    let head = format!("POST /?query=INSERT+INTO+{table}+FORMAT+CSV HTTP/1.1\r\nHost: localhost\r\n");
    let bodies = [
        "Transfer-Encoding: chunked\r\n\r\n4\r\n1,x\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\n1,x\n\r\n8\r\n2,y\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\n1,x\n\r\nzz\r\n2,y\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\n1,x\nNO0\r\n\r\n",
        "Content-Length: 100\r\n\r\n1,x\n",
    ];
    for body in bodies {
        let answer = target.raw_cut(format!("{head}{body}").as_bytes());
        assert!(!answer.starts_with("HTTP/1.1 200"), "{body}: {answer}");
        assert_eq!(rows(&target, &table).await, "", "{body}");
    }
    let whole = "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1,x\n\r\n0\r\n\r\n";
    let answer = target.raw(format!("{head}{whole}").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(rows(&target, &table).await, "1,\"x\"");
}

/// A frame as a client writes it.
fn frame(content: &[u8]) -> Vec<u8> {
    let compressed = lz4_flex::block::compress(content);
    let size = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
    let rest = [&[0x82][..], &size(compressed.len() + 9), &size(content.len()), &compressed].concat();
    let checksum = cityhash_rs::cityhash_102_128(&rest).rotate_left(64).to_le_bytes();
    [&checksum[..], &rest].concat()
}

#[tokio::test]
async fn frames_are_taken_when_their_checksum_is_right() {
    let target = target();
    let table = table(&target, "frames").await;
    let sql = format!("INSERT INTO {table} FORMAT CSV");
    let good = [frame(b"1,x\n2,"), frame(b"y\n")].concat();
    for at in [0, 17, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let answer = target.insert(&sql, &[("decompress", "1")], bad).await;
        assert_ne!(answer.status, 200, "byte {at}");
    }
    let mut bad = good.clone();
    bad[30] ^= 1;
    assert_eq!(target.insert(&sql, &[("decompress", "1")], bad).await.code(), 40);
    assert_ne!(
        target.insert(&sql, &[("decompress", "1")], good[..good.len() - 3].to_vec()).await.status,
        200
    );
    assert_eq!(rows(&target, &table).await, "");
    assert_eq!(target.insert(&sql, &[("decompress", "1")], good).await.status, 200);
    assert_eq!(rows(&target, &table).await, "1,\"x\"\n2,\"y\"");
}

#[tokio::test]
async fn packed_bodies_are_unpacked_or_refused() {
    let target = target();
    let table = table(&target, "packed").await;
    let pairs = [("query", format!("INSERT INTO {table} FORMAT CSV"))];
    let send = |encoding: &str, body: Vec<u8>| {
        target
            .send(target.http.post(&target.url).query(&pairs).header("Content-Encoding", encoding).body(body))
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"1,x\n").unwrap();
    let gzip = gzip.finish().unwrap();
    assert_ne!(send("gzip", gzip[..gzip.len() - 6].to_vec()).await.status, 200, "cut");
    assert_eq!(send("nonsense", b"1,x\n".to_vec()).await.status, 501);
    assert_eq!(rows(&target, &table).await, "");
    assert_eq!(send("gzip", gzip).await.status, 200);
    assert_eq!(send("zstd", zstd::bulk::compress(b"2,y\n", 1).unwrap()).await.status, 200);
    assert_eq!(rows(&target, &table).await, "1,\"x\"\n2,\"y\"");
}
