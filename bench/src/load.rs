//! How large in, figures of the load out: how fresh the table is at half load, what the loader costs, how large its inserts
//! are. Freshness is printed beside its goal; the other two are ratios, which a slow machine does not change, and are held.

mod client;
mod pipeline;
mod sink;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::settings::Load;

/// How long a record waits for others: the loader's default.
const FLUSH: Duration = Duration::from_secs(1);
/// The loader may cost so many times what reading, decoding and encoding cost by themselves.
const CLIENT_RATIO_MAX: f64 = 2.5;
/// An insert is worth its part with so many rows.
const ROWS_PER_INSERT_MIN: f64 = 50_000.0;

/// One line of the result.
struct Figure {
    name: &'static str,
    measured: f64,
    /// Most that is good.
    goal: f64,
    /// Whether missing it makes the exit code 1.
    is_held: bool,
}

/// Measures and prints.
pub(crate) fn run(settings: &Load) -> Result<ExitCode> {
    let cost = client::measure(settings.client_events)?;
    let bare = cost.consume + cost.decode + cost.encode;
    println!("loader alone, {} events, µs of a processor per event", settings.client_events);
    for (name, figure) in [
        ("reading from the log", cost.consume),
        ("decoding", cost.decode),
        ("encoding a block", cost.encode),
        ("the loader as a whole", cost.loader),
    ] {
        println!("  {name:<38}{figure:>9.2}");
    }
    let seen = pipeline::measure(settings)?;
    println!("standalone with the engine, {:.0} events/s at most, then {:.0}", seen.rate_max, seen.rate_half);
    println!("  {:<38}{:>9.0}", "rows per insert", seen.rows_per_insert);
    let flush = FLUSH.as_secs_f64();
    let inserts = if seen.rows_per_insert >= ROWS_PER_INSERT_MIN { 0.0 } else { seen.inserts_per_second };
    let figures = [
        Figure { name: "freshness p50, s", measured: seen.p50, goal: flush + 0.3, is_held: false },
        Figure { name: "freshness p95, s", measured: seen.p95, goal: 2.0 * flush + 0.5, is_held: false },
        Figure {
            name: "loader, times its parts",
            measured: cost.loader / bare,
            goal: CLIENT_RATIO_MAX,
            is_held: true,
        },
        Figure { name: "smaller inserts per s and partition", measured: inserts, goal: 1.0, is_held: true },
    ];
    println!("{:<40}{:>9}{:>9}{:>9}", "", "measured", "goal", "ratio");
    for Figure { name, measured, goal, .. } in &figures {
        println!("{name:<40}{measured:>9.2}{:>9}{:>9.2}", format!("≤ {goal:.1}"), measured / goal);
    }
    let missed = figures.iter().any(|figure| figure.is_held && figure.measured > figure.goal);
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
