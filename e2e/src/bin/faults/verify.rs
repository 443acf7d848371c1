//! The books of the clients, the tables of ClickHouse and what the ledger told in, what is wrong out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millrace_e2e::RECOUNTS;
use uuid::Uuid;

use crate::driver::PATIENCE;
use crate::ledger::{Ledger, Told};

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// ClickHouse as it is, without anything in between.
#[derive(Clone)]
pub(crate) struct Tables {
    http: reqwest::Client,
    url: String,
    database: String,
}

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) events: u64,
    pub(crate) lost: Vec<Uuid>,
    pub(crate) duplicated: u64,
    /// What the ledger told.
    pub(crate) told: Told,
    /// Rows that nobody sent, rollups that differ from a recount: in words.
    pub(crate) wrong: Vec<String>,
}

impl Findings {
    /// Whether tables and clients agree, without the ledger.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.duplicated == 0 && self.wrong.is_empty()
    }
}

impl Tables {
    pub(crate) fn new(url: &str, database: &str) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
        Ok(Self { http, url: url.to_owned(), database: database.to_owned() })
    }

    /// Waits until these events are stored.
    pub(crate) async fn until_stored(&self, ids: &[Uuid]) -> Result<()> {
        let list = ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
        let question =
            format!("SELECT uniqExact(event_id) FROM {}.events WHERE event_id IN ({list})", self.database);
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < PATIENCE {
            match self.ask(&question).await {
                Ok(count) if count == ids.len().to_string() => return Ok(()),
                Ok(count) => last = format!("{count} of {} are", ids.len()),
                Err(error) => last = format!("{error:#}"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        bail!("the last events are not stored within {} s: {last}", PATIENCE.as_secs())
    }

    /// Compares; everything that was acknowledged has to be decided by now.
    pub(crate) async fn compare(
        &self,
        acknowledged: &BTreeSet<Uuid>,
        sent: &BTreeSet<Uuid>,
        ledger: &Ledger,
    ) -> Result<Findings> {
        // By then everything has arrived, also what should not have.
        let standing = ledger.until_compared().await?;
        let rows =
            self.ask(&format!("SELECT toString(event_id) FROM {}.events FORMAT TSV", self.database)).await?;
        let rows =
            rows.lines().map(str::parse).collect::<Result<Vec<Uuid>, _>>().context("ids of the table")?;
        let stored: BTreeSet<Uuid> = rows.iter().copied().collect();
        let mut findings = Findings {
            events: acknowledged.len() as u64,
            lost: acknowledged.difference(&stored).copied().collect(),
            duplicated: (rows.len() - stored.len()) as u64,
            told: ledger.told(standing, &stored).await?,
            wrong: Vec::new(),
        };
        let strange = stored.difference(sent).count();
        if strange > 0 {
            findings.wrong.push(format!("{strange} rows were never sent"));
        }
        for (recount, rollup) in RECOUNTS {
            findings.wrong.extend(self.differs(recount, rollup).await?);
        }
        Ok(findings)
    }

    /// Events whose request was given up by its client may still arrive: equal at one moment is equal.
    async fn differs(&self, recount: &str, rollup: &str) -> Result<Option<String>> {
        let filled = |question: &str| question.replace("{db}", &self.database);
        let (mut counted, mut rolled) = (String::new(), String::new());
        for _ in 0..5 {
            counted = self.ask(&filled(recount)).await?;
            rolled = self.ask(&filled(rollup)).await?;
            if counted == rolled {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(Some(format!("recount {counted:?}, rollup {rolled:?}")))
    }

    /// Forgets the App's tables.
    pub(crate) async fn drop(&self) -> Result<()> {
        self.ask(&format!("DROP DATABASE IF EXISTS {}", self.database)).await.map(drop)
    }

    async fn ask(&self, statement: &str) -> Result<String> {
        let answer = self.http.post(&self.url).body(statement.to_owned()).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{status}: {text}");
        Ok(text.trim_end().to_owned())
    }
}
