//! Statements as data: what each is read as.

use super::{Statement, is_plain, read};

fn rows(text: &str) -> (String, String, Option<String>) {
    match read(text.as_bytes()) {
        Ok(Statement::Rows(rows)) => {
            (String::from_utf8(rows.before).unwrap(), String::from_utf8(rows.after).unwrap(), rows.format)
        }
        other => panic!("{text}: {other:?}"),
    }
}

fn insert(text: &str) -> (String, String, Option<String>, String) {
    match read(text.as_bytes()) {
        Ok(Statement::Insert(insert)) => (
            String::from_utf8(insert.target).unwrap(),
            String::from_utf8(insert.settings).unwrap(),
            insert.format,
            text[insert.data_at..].to_owned(),
        ),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn rows_are_split_before_their_format() {
    let check = |text: &str, before: &str, after: &str, format: Option<&str>| {
        assert_eq!(rows(text), (before.to_owned(), after.to_owned(), format.map(str::to_owned)), "{text}");
    };
    check("SELECT 1", "SELECT 1", "", None);
    check("SELECT 1 ;; ", "SELECT 1", "", None);
    check("SELECT 1 FORMAT JSON", "SELECT 1 ", "FORMAT JSON", Some("JSON"));
    check("select 1 format CSV settings a=1;", "select 1 ", "format CSV settings a=1", Some("CSV"));
    check("SELECT 1 SETTINGS a=1 FORMAT CSV", "SELECT 1 SETTINGS a=1 ", "FORMAT CSV", Some("CSV"));
    check("(SELECT 1) UNION ALL (SELECT 2 AS format)", "(SELECT 1) UNION ALL (SELECT 2 AS format)", "", None);
    check("SELECT format FROM t", "SELECT format FROM t", "", None);
    check("WITH 1 AS x SELECT x", "WITH 1 AS x SELECT x", "", None);
    check("DESCRIBE TABLE t", "DESCRIBE TABLE t", "", None);
}

#[test]
fn comments_leave_no_trace_and_quotes_are_no_comments() {
    assert_eq!(rows("SELECT 1 -- { serverError 395 }").0, "SELECT 1");
    assert_eq!(rows("SELECT /* { echo } */ 1").0, format!("SELECT {} 1", " ".repeat(14)));
    assert_eq!(rows("SELECT '-- ; /*', `a;b`, \"c--d\"").0, "SELECT '-- ; /*', `a;b`, \"c--d\"");
    assert_eq!(rows(r"SELECT 'it\'s; ', 'a''; b'").0, r"SELECT 'it\'s; ', 'a''; b'");
    assert_eq!(rows("SELECT $x$ a; b $x$").0, "SELECT $x$ a; b $x$");
}

#[test]
fn refuses_what_is_not_one_statement() {
    for text in [
        "",
        "  -- only a comment",
        ";",
        "SELECT 1; DROP TABLE t",
        "INSERT INTO t; DROP TABLE t",
        "SELECT 1;;SELECT 2",
    ] {
        assert_eq!(read(text.as_bytes()).unwrap_err().code, 62, "{text}");
    }
}

#[test]
fn refuses_to_read_or_write_files_of_the_server() {
    let check = |text: &str| {
        assert_eq!(read(text.as_bytes()).unwrap_err().code, 48, "{text}");
    };
    check("SELECT 1 INTO OUTFILE '/tmp/x'");
    check("SELECT 1 into/* */outfile '/tmp/x' FORMAT CSV");
    check("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT TSV");
    check("INSERT INTO t (a) from -- x\n infile '/etc/passwd'");
}

#[test]
fn refuses_a_drop_that_would_wait_for_ever() {
    for text in ["DROP TABLE t SYNC", "drop database d sync;", "DETACH TABLE t NO DELAY"] {
        assert_eq!(read(text.as_bytes()).unwrap_err().code, 48, "{text}");
    }
    assert!(read(b"DROP TABLE sync").is_err(), "a table of that name needs quotes");
    assert!(read(b"DROP TABLE `sync`").is_ok());
}

#[test]
fn inserts_are_split_into_target_settings_format_and_rows() {
    let check = |text: &str, expected: (&str, &str, Option<&str>, &str)| {
        let (target, settings, format, data) = insert(text);
        let found = (target.as_str(), settings.as_str(), format.as_deref(), data.as_str());
        assert_eq!(found, expected, "{text}");
    };
    check("INSERT INTO t FORMAT RowBinary\nxyz", ("INSERT INTO t", "", Some("RowBinary"), "xyz"));
    check("INSERT INTO t(a, b) FORMAT CSV 1,2", ("INSERT INTO t(a, b)", "", Some("CSV"), "1,2"));
    check(
        "insert into `d b`.\"t\" (a) settings x='FORMAT y', z=1 format Native\n\n",
        ("INSERT into `d b`.\"t\" (a) ", "settings x='FORMAT y', z=1", Some("Native"), "\n"),
    );
    check(
        "INSERT INTO t VALUES (1,'a;b'),(2,'c')",
        ("INSERT INTO t", "", Some("Values"), " (1,'a;b'),(2,'c')"),
    );
    check("INSERT INTO format FORMAT CSV\r\n1", ("INSERT INTO format", "", Some("CSV"), "1"));
    check(
        "INSERT INTO values.settings VALUES (1)",
        ("INSERT INTO values.settings", "", Some("Values"), " (1)"),
    );
    check("INSERT INTO t", ("INSERT INTO t", "", None, ""));
    check(
        "INSERT INTO t (format, values) FORMAT CSV\n",
        ("INSERT INTO t (format, values)", "", Some("CSV"), ""),
    );
    check(
        "INSERT INTO FUNCTION null('a UInt8') FORMAT CSV\n1",
        ("INSERT INTO FUNCTION null('a UInt8')", "", Some("CSV"), "1"),
    );
}

#[test]
fn an_insert_from_a_query_is_no_insert_with_rows() {
    let check = |text: &str| {
        assert!(matches!(read(text.as_bytes()), Ok(Statement::Other { .. })), "{text}");
    };
    check("INSERT INTO t SELECT 1");
    check("INSERT INTO t (a) (SELECT 1)");
    check("INSERT INTO t WITH 1 AS x SELECT x");
    check("WITH 1 AS x INSERT INTO t SELECT x");
    check("CREATE TABLE t (a UInt8) ENGINE = Memory");
}

#[test]
fn refuses_a_semicolon_before_rows() {
    assert_eq!(read(b"INSERT INTO t FORMAT CSV; 1").unwrap_err().code, 62);
}

#[test]
fn rows_of_an_insert_are_never_read_as_sql() {
    let text = b"INSERT INTO t FORMAT RowBinary\n\x00';--/*\xff";
    let Ok(Statement::Insert(insert)) = read(text) else { panic!("not an insert") };
    assert_eq!(&text[insert.data_at..], b"\x00';--/*\xff");
}

#[test]
fn knows_text_that_could_be_read_two_ways() {
    let check = |text: &str, expected: bool| assert_eq!(is_plain(text.as_bytes()), expected, "{text}");
    check("SELECT 'ü; $$ # \n' FROM `a b`.t -- x", true);
    check("SELECT $$x$$", false);
    check("SELECT ‘x’", false);
    check("SELECT 1 #x", false);
    check("SELECT `a\nTableIdentifier b`", false);
    check("SELECT 'never closed", false);
    check("SELECT /* never closed", false);
}
