//! Syntax trees as the engine prints them, and what a user of database `shop` may do with them.

use std::fmt::Write as _;

use super::super::users::Users;
use super::*;
use crate::engine::users::{Account, Credentials};

const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn check(tree: &str, allowed: bool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.yaml");
    std::fs::write(
        &path,
        format!("users: [{{name: u, password_sha256: {EMPTY_SHA256}, databases: [shop, \"s*\"]}}]"),
    )
    .unwrap();
    let users = Users::load(&path).unwrap();
    let credentials = Credentials { user: "u".to_owned(), password: String::new() };
    let Ok(Account::User(user)) = users.authenticate(&credentials) else { panic!("no user") };
    let answer = check_tree(tree, "shop", &user);
    assert_eq!(answer.is_ok(), allowed, "{answer:?}\n{tree}");
    if let Err(refusal) = answer {
        assert_eq!(refusal.code, 497);
    }
}

/// A select whose table expression and condition are given, with indentation added.
fn select(table: &str, condition: &[&str]) -> String {
    let mut tree = String::from(
        "SelectWithUnionQuery (children 1)\n ExpressionList (children 1)\n  SelectQuery (children 3)\n",
    );
    tree.push_str("   TablesInSelectQuery (children 1)\n    TablesInSelectQueryElement (children 1)\n     TableExpression (children 1)\n");
    writeln!(tree, "      {table}").unwrap();
    for (depth, line) in condition.iter().enumerate() {
        let depth = 3 + depth.min(2);
        writeln!(tree, "{}{line}", " ".repeat(depth)).unwrap();
    }
    tree
}

#[test]
fn tables_must_be_in_a_database_of_the_user() {
    check(&select("TableIdentifier shop.events", &[]), true);
    check(&select("TableIdentifier events (alias e)", &[]), true);
    check(&select("TableIdentifier system.one", &[]), true);
    for table in [
        "other.t",
        "system.users",
        "system.tables",
        "default./etc/passwd",
        "shop.a.b",
        "information_schema.tables",
        "INFORMATION_SCHEMA.tables",
    ] {
        check(&select(&format!("TableIdentifier {table} (alias x)"), &[]), false);
    }
}

#[test]
fn table_functions_are_a_short_list() {
    check(&select("Function numbers (children 1)", &[]), true);
    for function in [
        "file",
        "url",
        "s3",
        "remote",
        "merge",
        "mysql",
        "executable",
        "view",
        "cluster",
        "dictionary",
        "input",
        "loop",
    ] {
        check(&select(&format!("Function {function} (alias x) (children 1)"), &[]), false);
    }
}

#[test]
fn names_on_the_right_of_in_are_tables() {
    let with = |function: &str, name: &str| {
        select(
            "TableIdentifier shop.t",
            &[
                &format!("Function {function} (children 1)"),
                "ExpressionList (children 2)",
                "Identifier a",
                &format!("Identifier {name}"),
            ],
        )
    };
    check(&with("in", "shop.t"), true);
    check(&with("in", "other.t"), false);
    check(&with("globalNotIn", "system.users"), false);
    check(&with("notNullInIgnoreSet", "other.t"), false);
    check(&with("argMin", "e.timestamp"), true);
}

#[test]
fn functions_that_reach_elsewhere_are_refused() {
    for (function, allowed) in [
        ("uniq", true),
        ("toDate", true),
        ("file", false),
        ("dictGet", false),
        ("joinGet", false),
        ("DICTHAS", false),
    ] {
        check(&select("TableIdentifier t", &[&format!("Function {function} (children 1)")]), allowed);
    }
}

#[test]
fn an_insert_names_its_database() {
    check(
        "InsertQuery   (children 3)\n Identifier shop\n Identifier t\n ExpressionList (children 1)\n  Identifier a\n",
        true,
    );
    check("InsertQuery   (children 1)\n Identifier t\n", true);
    check("InsertQuery   (children 2)\n Identifier other\n Identifier t\n", false);
    check("InsertQuery   (children 1)\n Function file (children 1)\n  ExpressionList (children 1)\n", false);
    check("InsertQuery   (children 1)\n Function numbers (children 1)\n", false);
}

#[test]
fn everything_else_is_refused() {
    for tree in [
        "DropQuery shop t (children 2)\n Identifier shop\n Identifier t\n",
        "CreateQuery shop v (children 1)\n",
        "AlterQuery shop t (children 1)\n",
        "Set\n",
        "UseQuery shop (children 1)\n",
        "SYSTEM query\n",
        "KillQueryQuery x (children 1)\n",
        "ShowTables (children 1)\n",
        "RenameQuery\n",
        "Explain EXPLAIN (children 1)\n SelectWithUnionQuery\n",
        "CreateFunctionQuery f\n",
        "",
        "TruncateQuery shop t\n",
        "SelectWithUnionQuery (children 1)\n   TooDeep\n",
        "SelectQuery\nSelectQuery\n",
        "BackupQuery\n",
    ] {
        check(tree, false);
    }
}

#[test]
fn text_that_names_server_files_or_hides_something_is_refused() {
    let check = |text: &str, parameters: &[(&str, &str)], allowed: bool| {
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(check_text(text.as_bytes(), &parameters).is_ok(), allowed, "{text}");
    };
    check("SELECT 'format_schema' FROM t FORMAT JSON", &[("x", "a\\nb")], true);
    check("SELECT 1 FORMAT Template SETTINGS format_template_row='/etc/passwd'", &[], false);
    check("SELECT 1 FORMAT `Protobuf`", &[], false);
    check("SELECT 1 SETTINGS Format_Schema='x'", &[], false);
    check("SELECT $$x$$", &[], false);
    check("SELECT * FROM {t:Identifier}", &[("t", "events")], true);
    check("SELECT * FROM {t:Identifier}", &[("t", "events\nFunction")], false);
}
