//! Port taken, data directory locked, unreadable manifest, engine library missing: one clear line with the fix and an
//! exit code other than 0. And what the API says equals the same SQL on ClickHouse.

use std::process::Output;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::harness::{Bench, event, resources, wait_for};

/// Runs to the end, which must come by itself, and checks what it said.
fn check_refused(output: &Output, fragments: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "ended with success:\n{said}");
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error:")).collect();
    ensure!(errors.len() == 1, "not one clear line:\n{said}");
    for fragment in fragments {
        ensure!(errors[0].contains(fragment), "`{fragment}` is not in: {}", errors[0]);
    }
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}

#[test]
fn a_taken_port_is_named() -> Result<()> {
    let bench = Bench::new(&resources(""))?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    for option in ["--ingest-listen", "--gateway-listen", "--admin-listen", "--engine-listen"] {
        check_refused(&bench.command_with(option, &address)?.output()?, &[&address, option])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_locked_data_directory_is_named() -> Result<()> {
    let bench = Bench::new(&resources(""))?;
    let first = bench.start().await?;
    let second = bench.command()?.output()?;
    check_refused(&second, &[&bench.data().display().to_string(), &first.id().to_string(), "--data-dir"])
}

#[test]
fn an_unreadable_manifest_is_named_with_its_place() -> Result<()> {
    let bench = Bench::new("apiVersion: millrace.dev/v1alpha1\nkind: App\nmetadata: {name: shop\n")?;
    let output = bench.command()?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("shop.yaml"), "{said}");
    Ok(())
}

#[test]
fn a_missing_engine_library_is_named_with_the_fix() -> Result<()> {
    let bench = Bench::new(&resources(""))?;
    let output = bench.command()?.args(["--engine-library", "/no/such/libchdb.so"]).output()?;
    check_refused(&output, &["/no/such/libchdb.so", "make engine"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_says_what_the_same_sql_says() -> Result<()> {
    let spec = "events: {revenue: {property: amount, currencyProperty: currency}, conversions: [purchase]}";
    let bench = Bench::new(&resources(spec))?;
    let process = bench.start().await?;
    let mut batch: Vec<_> = (0..40).map(|_| event(uuid::Uuid::new_v4())).collect();
    for user in ["a", "b"] {
        let data = json!({"amount": "19.99", "currency": "EUR"});
        batch.push(json!({"event_type": "purchase", "user_id": user, "event_data": data}));
    }
    let sent = batch.len();
    ensure!(process.send(&json!({"batch": batch})).await?.status() == 200);
    let database = "millrace_default__shop";
    // The rollup follows its table by moments: the block is answered when both are there.
    wait_for("every event in the rollup", async || {
        let stats = process.api("/api/dashboard/stats?app=shop").await?;
        Ok((stats["total_events"] == sent).then_some(()))
    })
    .await?;

    let stats = process.api("/api/dashboard/stats?app=shop").await?;
    let sql = process
        .sql(&format!(
            "SELECT count() AS events, uniqExact(user_key) AS users, \
             uniqExactIf(user_key, is_conversion) AS converted, toString(sum(revenue)) AS revenue \
             FROM {database}.events FORMAT JSONEachRow"
        ))
        .await?;
    let sql: serde_json::Value = serde_json::from_str(&sql)?;
    println!("API {stats}\nSQL {sql}");
    let number = |value: &serde_json::Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    ensure!(number(&stats["total_events"]) == number(&sql["events"]));
    ensure!(number(&stats["active_users"]) == number(&sql["users"]));
    ensure!(stats["revenue"] == json!([{"currency": "EUR", "amount": sql["revenue"]}]), "revenue");
    let rate = stats["conversion_rate"].as_f64().unwrap_or(f64::NAN);
    let users = number(&sql["users"]).unwrap_or(0);
    let converted = number(&sql["converted"]).unwrap_or(0);
    ensure!((rate - converted as f64 / users as f64).abs() < 1e-9, "{rate} is not {converted} of {users}");
    Ok(())
}
