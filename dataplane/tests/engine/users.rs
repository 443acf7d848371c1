//! Users from a file: who gets in, and what each may do. Our engine only: a server has its own access control.

use std::fs;

use sha2::{Digest, Sha256};

use crate::support::{Answer, Engine, Target};

/// An engine with an administrator, a writer and a reader of `shop`, and the file's folder.
fn engine() -> (Engine, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.yaml");
    fs::write(
        &path,
        users(&[
            ("root", "[\"*\"]", false),
            ("writer", "[shop, \"tmp_*\"]", false),
            ("reader", "[shop]", true),
        ]),
    )
    .unwrap();
    (Engine::start(&["--users", path.to_str().unwrap()]), dir)
}

/// Every password is `<name>-secret`.
fn users(users: &[(&str, &str, bool)]) -> String {
    let user = |(name, databases, readonly): &(&str, &str, bool)| {
        let digest = hex::encode(Sha256::digest(format!("{name}-secret")));
        format!(
            "- {{name: {name}, password_sha256: {digest}, databases: {databases}, readonly: {readonly}}}\n"
        )
    };
    format!("users:\n{}", users.iter().map(user).collect::<String>())
}

async fn ask(target: &Target, user: &str, pairs: &[(&str, &str)], sql: &str) -> Answer {
    let request = target.post(pairs, sql.to_owned());
    target
        .send(request.header("X-ClickHouse-User", user).header("X-ClickHouse-Key", format!("{user}-secret")))
        .await
}

async fn prepare(target: &Target) {
    for sql in [
        "CREATE DATABASE shop",
        "CREATE DATABASE other",
        "CREATE TABLE shop.t (a UInt64) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE other.t (a UInt64) ENGINE = MergeTree ORDER BY a",
        "INSERT INTO other.t VALUES (42)",
        "CREATE VIEW shop.window AS SELECT a FROM other.t",
    ] {
        ask(target, "root", &[], sql).await.rows();
    }
}

#[tokio::test]
async fn only_right_credentials_get_in() {
    let (engine, _dir) = engine();
    let target = engine.target();
    let check = async |request: reqwest::RequestBuilder, status: u16, what: &str| {
        let answer = target.send(request).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        if status != 200 {
            assert_eq!(answer.code(), 516, "{what}");
            assert!(answer.text().contains("AUTHENTICATION_FAILED"));
        }
    };
    let post = || target.post(&[], "SELECT 1");
    check(post().basic_auth("reader", Some("reader-secret")), 200, "basic").await;
    check(
        post().header("X-ClickHouse-User", "reader").header("X-ClickHouse-Key", "reader-secret"),
        200,
        "headers",
    )
    .await;
    check(target.post(&[("user", "reader"), ("password", "reader-secret")], "SELECT 1"), 200, "parameters")
        .await;
    check(post(), 403, "nothing").await;
    check(post().basic_auth("reader", Some("wrong")), 403, "wrong password").await;
    check(post().basic_auth("reader", None::<&str>), 403, "no password").await;
    check(post().basic_auth("nobody", Some("reader-secret")), 403, "unknown user").await;
    check(post().bearer_auth("reader-secret"), 403, "bearer").await;
    check(
        target.post(&[("user", "reader")], "SELECT 1").basic_auth("reader", Some("reader-secret")),
        403,
        "two ways",
    )
    .await;
    assert_eq!(target.send(target.http.get(format!("{}ping", target.url))).await.status, 200);
}

/// What no user of `shop` may do.
const DENIED: &[&str] = &[
    "SELECT * FROM other.t",
    "SELECT 1 FROM t WHERE a IN other.t",
    "SELECT (SELECT max(a) FROM other.t)",
    "SELECT * FROM t UNION ALL SELECT * FROM other.t",
    "WITH x AS (SELECT * FROM other.t) SELECT * FROM x",
    "SELECT * FROM system.tables",
    "SELECT * FROM system.processes",
    "SHOW TABLES FROM other",
    "SHOW DATABASES",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT file('/etc/passwd')",
    "SELECT * FROM default.`/etc/passwd`",
    "SELECT * FROM merge('other', '.*')",
    "SELECT * FROM url('http://127.0.0.1:1', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1', other.t)",
    "SELECT * FROM view(SELECT * FROM other.t)",
    "INSERT INTO other.t VALUES (1)",
    "INSERT INTO FUNCTION file('/tmp/millrace-x', 'CSV', 'a UInt8') VALUES (1)",
    "INSERT INTO t SELECT a FROM other.t",
    "SET max_threads = 1",
    "USE other",
    "SYSTEM FLUSH LOGS",
    "KILL QUERY WHERE 1",
    "CREATE VIEW shop.v AS SELECT * FROM other.t",
    "CREATE FUNCTION f AS x -> x",
    "DROP TABLE shop.t",
    "ATTACH TABLE shop.x",
    "ALTER TABLE t DELETE WHERE 1",
    "EXPLAIN SELECT * FROM other.t",
    "TRUNCATE TABLE t",
    "OPTIMIZE TABLE t",
    "SELECT dictGet('other.d', 'a', 1)",
    "SELECT joinGet('other.j', 'a', 1)",
    "SELECT hasColumnInTable('other', 't', 'a')",
    "DESCRIBE TABLE other.t",
    "DESCRIBE file('/etc/passwd')",
    "EXISTS TABLE other.t",
    "EXISTS DATABASE other",
    "SELECT $$x$$",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '/etc/passwd'",
    "CREATE TABLE shop.m (a UInt64) ENGINE = Merge('other', '.*')",
    "BACKUP DATABASE shop TO File('/tmp/x')",
];

#[tokio::test]
async fn a_user_stays_in_its_databases() {
    let (engine, _dir) = engine();
    let target = engine.target();
    prepare(&target).await;
    let shop = [("database", "shop")];
    let allowed = async |user: &str, sql: &str| {
        let answer = ask(&target, user, &shop, sql).await;
        assert_eq!(answer.status, 200, "{user}: {sql}: {}", answer.text());
    };
    allowed("writer", "INSERT INTO t FORMAT CSV\n7").await;
    allowed("writer", "INSERT INTO shop.t SELECT a + 1 FROM t").await;
    for sql in [
        "SELECT * FROM t",
        "SELECT sum(a) FROM shop.t WHERE a IN (SELECT a FROM t)",
        "DESCRIBE TABLE t",
        "EXISTS TABLE shop.t",
        "WITH x AS (SELECT 1 AS a) SELECT * FROM x JOIN t USING (a)",
        "SELECT 1",
        "SELECT * FROM numbers(3)",
        "SELECT * FROM window",
    ] {
        allowed("reader", sql).await;
        allowed("writer", sql).await;
    }
    for user in ["reader", "writer"] {
        for sql in DENIED.iter().copied() {
            let answer = ask(&target, user, &shop, sql).await;
            assert!(matches!(answer.code(), 497 | 164 | 48), "{user}: {sql}: {}", answer.text());
            assert!(!answer.text().contains("42"), "{user}: {sql}: {}", answer.text());
        }
    }
    assert_eq!(ask(&target, "reader", &[("database", "other")], "SELECT 1").await.code(), 497);
    let pairs = [("database", "shop"), ("param_d", "other"), ("param_t", "t")];
    assert_eq!(
        ask(&target, "reader", &pairs, "SELECT * FROM {d:Identifier}.{t:Identifier}").await.code(),
        497
    );
    assert_eq!(ask(&target, "root", &[], "SELECT count() FROM other.t").await.rows(), "1\n");
}

#[tokio::test]
async fn a_reader_cannot_write_whatever_it_asks_for() {
    let (engine, _dir) = engine();
    let target = engine.target();
    prepare(&target).await;
    for pairs in [&[][..], &[("readonly", "0")], &[("max_threads", "1")]] {
        let answer = ask(&target, "reader", pairs, "INSERT INTO shop.t VALUES (1)").await;
        assert_eq!(answer.code(), 164, "{pairs:?}: {}", answer.text());
        let answer = ask(&target, "reader", pairs, "INSERT INTO shop.t SELECT 1 SETTINGS readonly = 0").await;
        assert_eq!(answer.code(), 164, "{pairs:?}: {}", answer.text());
    }
    assert_eq!(
        ask(&target, "reader", &[("max_threads", "1")], "SELECT count() FROM shop.t").await.rows(),
        "0\n"
    );
}

#[tokio::test]
async fn a_changed_file_holds_at_once() {
    let (engine, dir) = engine();
    let target = engine.target();
    fs::write(dir.path().join("users.yaml"), users(&[("newcomer", "[shop]", false)])).unwrap();
    assert_eq!(ask(&target, "newcomer", &[], "SELECT 1").await.rows(), "1\n");
    assert_eq!(ask(&target, "root", &[], "SELECT 1").await.code(), 516);
}

#[tokio::test]
async fn without_a_file_web_pages_stay_out() {
    let engine = Engine::start(&[]);
    let target = engine.target();
    for (name, value) in
        [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site"), ("Host", "evil.example:8123")]
    {
        let answer = target.send(target.post(&[], "SELECT 1").header(name, value)).await;
        assert_eq!(answer.code(), 516, "{name}");
    }
    assert_eq!(target.run("SELECT 1").await, "1");
}
