//! Failing: status, code and text before the first byte, the tagged block after it.

use futures::StreamExt;

use crate::support::{server_url, target};

#[tokio::test]
async fn errors_have_the_status_and_code_of_a_server() {
    let target = target();
    let check = async |sql: &str, status: u16, code: u16, name: &str| {
        let answer = target.ask(&[], sql).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{sql}: {}", answer.text());
        let text = answer.text();
        assert!(text.starts_with(&format!("Code: {code}. DB::Exception: ")), "{text}");
        assert!(text.contains(&format!("({name}) (version ")) && text.ends_with(")\n"), "{text}");
    };
    check("SELEC 1", 400, 62, "SYNTAX_ERROR").await;
    check("SELECT * FROM no_such_table", 404, 60, "UNKNOWN_TABLE").await;
    check("SELECT * FROM no_such_database.t", 404, 81, "UNKNOWN_DATABASE").await;
    check("SELECT no_such_function(1)", 404, 46, "UNKNOWN_FUNCTION").await;
    check("SELECT 1 SETTINGS no_such_setting = 1", 404, 115, "UNKNOWN_SETTING").await;
    check("SELECT 1 FORMAT NoSuchFormat", 404, 73, "UNKNOWN_FORMAT").await;
    check("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO").await;
    check("SELECT toUInt8('x')", 400, 6, "CANNOT_PARSE_TEXT").await;
    check("SELECT {missing:String}", 500, 456, "UNKNOWN_QUERY_PARAMETER").await;
}

#[tokio::test]
async fn one_request_is_one_statement() {
    let target = target();
    let database = target.database("one_statement").await;
    target.run(&format!("CREATE TABLE {database}.t (a UInt8) ENGINE = Memory")).await;
    assert_eq!(target.ask(&[], &format!("SELECT 1; DROP TABLE {database}.t")).await.code(), 62);
    assert_eq!(target.run(&format!("EXISTS {database}.t")).await, "1");
    assert_eq!(target.run("SELECT ';' ;").await, ";");
    for word in ["exit", "quit", "1 + 1", ""] {
        assert_ne!(target.ask(&[], word).await.status, 200, "{word}");
    }
}

#[tokio::test]
async fn a_hint_in_a_comment_hides_no_error() {
    let target = target();
    assert_eq!(target.ask(&[], "SELECT throwIf(1) -- { serverError 395 }").await.code(), 395);
}

#[tokio::test]
async fn an_unknown_setting_or_database_of_the_request_is_an_error() {
    let target = target();
    assert_eq!(target.ask(&[("no_such_setting", "1")], "SELECT 1").await.code(), 115);
    assert_eq!(target.ask(&[("database", "no_such_database")], "SELECT 1").await.code(), 81);
}

#[tokio::test]
async fn an_error_after_the_first_rows_is_a_tagged_block_and_a_broken_connection() {
    let target = target();
    let sql = "SELECT number, throwIf(number = 9000000) FROM numbers(10000000) SETTINGS max_threads = 1";
    let response = target.post(&[], sql).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let tag = response.headers()["x-clickhouse-exception-tag"].to_str().unwrap().to_owned();
    let (mut body, mut broken) = (Vec::new(), false);
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => body.extend_from_slice(&piece),
            Err(_) => broken = true,
        }
    }
    assert!(broken, "rows that are not all must not end like all");
    let text = String::from_utf8(body[body.len().saturating_sub(2000)..].to_vec()).unwrap();
    let (_, block) = text.split_once("\r\n__exception__\r\n").expect("the block is there");
    let block = block.strip_prefix(&format!("{tag}\r\n")).expect("the tag begins it");
    let (message, end) =
        block.rsplit_once('\n').unwrap().0.rsplit_once('\n').unwrap().0.rsplit_once('\n').unwrap();
    assert!(message.starts_with("Code: 395. DB::Exception: "), "{message}");
    assert_eq!(end.trim_end(), format!("{} {tag}", message.len() + 1));
}

#[tokio::test]
async fn wait_end_of_query_tells_a_late_error_by_its_status() {
    let target = target();
    let sql = "SELECT number, throwIf(number = 900000) FROM numbers(1000000) SETTINGS max_threads = 1, max_block_size = 1000";
    assert_eq!(target.ask(&[("wait_end_of_query", "1")], sql).await.code(), 395);
    let rows = target.ask(&[("wait_end_of_query", "1")], "SELECT number FROM numbers(1000000)").await.rows();
    assert_eq!(rows.lines().count(), 1_000_000);
}

#[tokio::test]
async fn files_of_the_server_are_out_of_reach() {
    let target = target();
    for sql in [
        "SELECT 1 INTO OUTFILE '/tmp/millrace-contract'",
        "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT TSV",
    ] {
        assert_ne!(target.ask(&[], sql).await.status, 200, "{sql}");
    }
    assert!(!std::path::Path::new("/tmp/millrace-contract").exists());
}

#[tokio::test]
async fn our_engine_says_that_it_has_no_sessions_and_roles() {
    let target = target();
    if server_url().is_some() {
        assert_eq!(target.ask(&[("session_id", "contract")], "SELECT 1").await.rows(), "1\n");
        return;
    }
    assert_eq!(target.ask(&[("session_id", "x")], "SELECT 1").await.code(), 48);
    assert_eq!(target.ask(&[("role", "x")], "SELECT 1").await.code(), 511);
}
