//! Every change of a story's resources is planned first, and what then happened is compared with the plan before the next
//! one and at the end. Without the audit log of the test cluster nothing is planned and nothing compared.

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use tokio::sync::{Mutex, MutexGuard};

use crate::accuracy::{Audit, Compared, of_objects, of_tables, of_topics, with_uids};
use crate::audit::Mark;
use crate::harness::{say, wait};
use crate::plan::{self, Intent, Report};
use crate::world::{ClickHouse, Tables, World, database_prefix, objects, setting};

/// Kinds that `plan` reads from files.
const PLANNED: [&str; 4] = ["App", "Integration", "RolePolicy", "Secret"];

/// Whether `plan` speaks of changes of this kind.
pub(crate) fn is_planned(kind: &str) -> bool {
    PLANNED.contains(&kind)
}

/// Plans of one story.
pub(crate) struct Plans {
    client: Client,
    http: reqwest::Client,
    namespace: String,
    /// The operator's namespace.
    operator: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: Option<Pending>,
    planned: usize,
    recorded: usize,
}

/// A plan whose changes are on their way.
struct Pending {
    printed: String,
    report: Report,
    before: World,
    mark: Mark,
    /// The copies after the planned statements.
    tables: Option<Tables>,
}

impl Plans {
    /// None yet.
    pub(crate) fn new(client: Client, http: reqwest::Client, namespace: &str, operator: &str) -> Self {
        let (namespace, operator) = (namespace.to_owned(), operator.to_owned());
        Self { client, http, namespace, operator, state: Mutex::default() }
    }

    /// Makes a change after it was planned. What the API server refuses must be refused by the plan too.
    pub(crate) async fn change<T>(
        &self,
        text: &str,
        intent: Intent,
        change: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        if !is_recorded() {
            return change().await;
        }
        let mut state = self.compared().await?;
        let before = World::look(&self.client, &self.http, &self.namespace).await?;
        let (printed, report) = plan::ask(&self.operator, &self.namespace, text, intent)?;
        let mark = Mark::now()?;
        let done = match change().await {
            Ok(done) => done,
            Err(error) if report.is_refusal() => return Err(error),
            Err(error) => return Err(error.context(format!("refused, and planned as possible: {printed}"))),
        };
        state.pending = Some(Pending { printed, report, before, mark, tables: None });
        Ok(done)
    }

    /// What comes next is nobody's plan, such as an edit by hand, or a back end that comes back.
    pub(crate) async fn unplanned(&self) -> Result<()> {
        if is_recorded() { self.compared().await.map(drop) } else { Ok(()) }
    }

    /// Compares what is left and says how many changes there were.
    pub(crate) async fn end(&self) -> Result<()> {
        if !is_recorded() {
            say("plan: not compared; there is no audit log");
            return Ok(());
        }
        let state = self.compared().await?;
        ClickHouse::new(&self.http)?.drop_all(&self.copies()).await?;
        say(&format!("plan: {} changes planned, {} recorded, equal", state.planned, state.recorded));
        Ok(())
    }

    /// Waits until everything that was planned has happened, and nothing else.
    async fn compared(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock().await;
        let Some(mut pending) = state.pending.take() else { return Ok(state) };
        let mut counted = Compared::default();
        wait("what happened to be what was planned", async || {
            counted = self.compare(&mut pending).await?;
            ensure!(
                counted.differences.is_empty(),
                "plan and record differ:\n{}\nplanned was: {}",
                counted.differences.join("\n"),
                pending.printed
            );
            Ok(Some(()))
        })
        .await?;
        state.planned += counted.planned;
        state.recorded += counted.recorded;
        Ok(state)
    }

    async fn compare(&self, pending: &mut Pending) -> Result<Compared> {
        let after = objects(&self.client, &self.namespace).await?;
        let printed = with_uids(&pending.printed, &pending.report, &after);
        let report: Report = serde_json::from_str(&printed)?;
        let written = pending.mark.writes()?.into_iter().chain(pending.mark.collected()?);
        let audit = Audit::of(written, &self.namespace);
        let mut compared = of_objects(&report, &pending.before.objects, &after, &audit);
        if !compared.differences.is_empty() {
            return Ok(compared);
        }
        let after = World::look(&self.client, &self.http, &self.namespace).await?;
        match (&pending.before.topics, &after.topics) {
            (Some(before), Some(after)) => compared.add(of_topics(&report, before, after)),
            _ => ensure!(report.topics.is_empty(), "topics are planned on a Kafka that does not answer"),
        }
        let (Some(before), Some(after)) = (&pending.before.tables, &after.tables) else {
            ensure!(
                report.statements.is_empty(),
                "statements are planned for an engine that does not answer"
            );
            return Ok(compared);
        };
        if pending.tables.is_none() {
            pending.tables = Some(self.carry_out(&report, before).await?);
        }
        let planned = pending.tables.as_ref().context("they were just carried out")?;
        compared.add(of_tables(before, planned, after));
        Ok(compared)
    }

    /// Carries out the planned statements on copies of the databases, and gives what became of those.
    async fn carry_out(&self, report: &Report, before: &Tables) -> Result<Tables> {
        if report.statements.is_empty() {
            return Ok(before.clone());
        }
        let engine = ClickHouse::new(&self.http)?;
        let (real, copies) = (database_prefix("millrace", &self.namespace), self.copies());
        // They were made by the statements planned so far, so after an unplanned change they lag behind.
        ensure!(
            engine.tables(&copies).await? == *before,
            "the databases changed without a plan; this cannot be compared"
        );
        for statement in &report.statements {
            engine.run(&statement.sql.replace(&real, &copies)).await?;
        }
        engine.tables(&copies).await
    }

    fn copies(&self) -> String {
        database_prefix("planned", &self.namespace)
    }
}

/// The test cluster tells everything; of any other cluster there is only the API.
fn is_recorded() -> bool {
    setting("CLUSTER_AUDIT_LOG").is_ok()
}
