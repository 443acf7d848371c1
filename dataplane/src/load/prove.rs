//! A block that was answered after a repeat in; returns once its rows are proven by their positions. A server may drop a
//! repeated block because it remembers its token though it lost the rows (killed between the two); what is missing goes
//! in again under a token of its own. Rollups are recounted; a difference is told, and mended by
//! `rollups rebuild`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::block::Block;
use super::insert::{AppGone, Origin, Portion, insert_missing};
use super::stored::{self, Difference, Held, Span};
use super::target::Target;
use super::{BACK_OFF_MIN, Loader, longer};
use crate::config::App;

/// Rows that end so soon are not asked for: retention may take them at any moment.
const RETENTION_MARGIN_MS: i64 = 2 * 86_400_000;
/// A difference between a rollup and its recount counts when it is seen so often: other loaders insert meanwhile.
const LOOKS_MAX: u32 = 5;
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// What the table says of a span that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Once,
    Missing,
    Twice,
}

fn judge(expected: u64, held: Held) -> Verdict {
    if held.offsets < expected {
        Verdict::Missing
    } else if held.rows > held.offsets {
        Verdict::Twice
    } else {
        Verdict::Once
    }
}

/// The insert of the block has ended: its query id was free again when its repeat was answered.
pub(super) async fn prove(loader: &Loader, origin: Origin<'_>, block: &Block) -> Result<(), AppGone> {
    let Some(span) = Span::of(loader.target, origin, block, oldest(loader)?) else { return Ok(()) };
    let span = &span;
    let mut pause = BACK_OFF_MIN;
    for attempt in 1_u32.. {
        let asked = |app: Arc<App>| async move { stored::held(loader, &app, span).await };
        match judge(span.rows, loader.answered("how many rows of a block are there", asked).await?) {
            Verdict::Once => break,
            Verdict::Twice => {
                find(loader, origin, "rows_twice");
                break;
            }
            Verdict::Missing => {
                find(loader, origin, "rows_missing");
                insert_missing(
                    loader,
                    origin,
                    block,
                    Portion::Without { there: &there(loader, span).await?, attempt },
                )
                .await?;
            }
        }
        tokio::time::sleep(pause).await;
        pause = longer(pause);
    }
    match loader.target {
        Target::Events => recount(loader, origin, span).await,
        Target::DeadLetters | Target::Ledger => Ok(()),
    }
}

async fn there(loader: &Loader, span: &Span) -> Result<BTreeSet<u64>, AppGone> {
    let asked = |app: Arc<App>| async move { stored::offsets(loader, &app, span).await };
    loader.answered("which rows of a block are there", asked).await
}

/// Moment before which rows may be gone.
fn oldest(loader: &Loader) -> Result<i64, AppGone> {
    let seconds = loader.configured()?.config.storage.retention_seconds;
    let retention_ms = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
    let now = Timestamp::now().as_millisecond();
    Ok(now.saturating_sub(retention_ms).saturating_add(RETENTION_MARGIN_MS))
}

async fn recount(loader: &Loader, origin: Origin<'_>, span: &Span) -> Result<(), AppGone> {
    for look in 1..=LOOKS_MAX {
        let asked = |app: Arc<App>| async move { stored::rollup_difference(loader, &app, span).await };
        let difference = loader.answered("a recount of the rollups", asked).await?;
        if difference == (Difference { events: 0, user_days: 0 }) {
            return Ok(());
        }
        if look == LOOKS_MAX {
            tracing::error!(
                ?difference,
                "rollups differ from a recount of the table; `millrace-dataplane rollups rebuild` makes them anew"
            );
            find(loader, origin, "rollups_differ");
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(())
}

fn find(loader: &Loader, origin: Origin<'_>, finding: &str) {
    let [app, table] = loader.labels();
    loader.metrics.load_findings.with_label_values(&[app.as_str(), table.as_str(), finding]).inc();
    tracing::error!(app, table, finding, partition = %origin.partition, "a repeated block was not stored as it should be");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_stored_when_each_of_its_offsets_has_one_row() {
        for (rows, offsets, verdict) in [
            (5, 5, Verdict::Once),
            (4, 4, Verdict::Missing),
            (6, 4, Verdict::Missing),
            (0, 0, Verdict::Missing),
            (6, 5, Verdict::Twice),
        ] {
            assert_eq!(judge(5, Held { rows, offsets }), verdict, "{rows} rows, {offsets} offsets");
        }
    }
}
