//! Many Apps and the operator's own machinery in, on a real API server without controllers or nodes: how long until all
//! are Ready, what is written for it, what an idle hour costs, how much memory it takes, and whether a second operator
//! takes over without a trace. Back ends and the answers of pods are faked behind their traits.

mod audit;
mod fakes;
mod figures;
mod kubelet;
mod load;
pub(crate) mod process;
mod started;

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use audit::{Asked, Mark};
use figures::Figure;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use load::Created;
use millrace_operator::kind::Kind;
use serde_json::Value;
use started::Started;

use crate::settings::{Operator, Output};

/// Goals of the issue.
const READY_GOAL_S: f64 = 60.0;
const WRITES_GOAL: f64 = 6.0;
const MEMORY_GOAL_MIB: f64 = 120.0;
/// A second one waits for the first one's Lease to run out, 15 s, and looks every two.
const HAND_OVER_GOAL_S: f64 = 20.0;

/// Measures and prints; fails when a counter misses its goal.
pub(crate) fn run(settings: &Operator) -> Result<ExitCode> {
    let figures =
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(settings))?;
    let met = figures::print(&figures, settings.output);
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(settings: &Operator) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let logs = settings.logs.as_deref().unwrap_or(folder.path());
    let client = load::client().await?;
    let namespaces = load::prepare(&client, settings.namespaces).await?;
    let nodes = [Kind::Deployment, Kind::StatefulSet].map(|kind| kubelet::run(client.clone(), kind));
    let measured = Measurement { settings, client, namespaces, logs };
    tokio::select! {
        figures = measured.run() => figures,
        ended = futures::future::try_join_all(nodes) => {
            ended?;
            bail!("pods are not made any more")
        }
    }
}

struct Measurement<'a> {
    settings: &'a Operator,
    client: Client,
    namespaces: Vec<String>,
    logs: &'a Path,
}

impl Measurement<'_> {
    async fn run(&self) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        let mut first = Started::new("first", self.logs)?;
        first.wait_for("leading").await?;
        figures.push(Figure::info("resident at start, MiB", first.usage()?.resident_mib));
        let before = self.mark()?;
        let mut working = if self.settings.hand_over {
            self.fill_and_hand_over(first, &mut figures).await?
        } else {
            self.fill(&mut first, &mut figures).await?;
            first
        };
        self.writes(&before.asked()?, &mut figures);
        self.one_more(&mut working, &mut figures).await?;
        let usage = working.usage()?;
        figures.push(Figure::info("operator on a processor, s", usage.processor_s));
        figures.push(Figure::printed("resident at most, MiB", usage.peak_mib, MEMORY_GOAL_MIB));
        figures.push(Figure::printed("resident afterwards, MiB", usage.resident_mib, MEMORY_GOAL_MIB));
        self.idle(&mut working, &mut figures).await?;
        figures.push(Figure::held("Revisions too many", self.revisions_too_many().await?, 0.0));
        Ok(figures)
    }

    /// Creates all Apps and waits until they are Ready and nothing moves any more.
    async fn fill(&self, operator: &mut Started, figures: &mut Vec<Figure>) -> Result<()> {
        let apps = self.settings.apps;
        let begun = Instant::now();
        let (created, ready) = tokio::try_join!(
            async {
                let created = load::create(&self.client, &self.namespaces, 0..apps).await?;
                Ok((created, begun.elapsed()))
            },
            load::all_ready(&self.client, apps)
        )?;
        let took = begun.elapsed().as_secs_f64();
        let (created, creating) = created;
        figures.push(Figure::info("creating, s", creating.as_secs_f64()));
        figures.push(Figure::printed("created -> all Ready, s", took, READY_GOAL_S));
        figures.extend(each(&created, &ready));
        self.count_reconciles(&operator.ask("settle").await?, figures);
        Ok(())
    }

    /// The same with two operators: the one that works is killed when half of the Apps were created.
    async fn fill_and_hand_over(&self, first: Started, figures: &mut Vec<Figure>) -> Result<Started> {
        let (apps, half) = (self.settings.apps, self.settings.apps / 2);
        let mut second = Started::new("second", self.logs)?;
        second.wait_for("standing by").await?;
        load::create(&self.client, &self.namespaces, 0..half).await?;
        // Some are done, some are under way, some were not looked at.
        load::all_ready(&self.client, half / 4).await?;
        first.kill()?;
        let killed = Instant::now();
        load::create(&self.client, &self.namespaces, half..apps).await?;
        second.wait_for("leading").await?;
        let took = killed.elapsed().as_secs_f64();
        figures.push(Figure::printed("killed -> the other works, s", took, HAND_OVER_GOAL_S));
        load::all_ready(&self.client, apps).await?;
        self.count_reconciles(&second.ask("settle").await?, figures);
        Ok(second)
    }

    /// One App that comes alone, and what it costs besides its objects: what it shares with the others is owned by one
    /// anchor, which alone is written for it, beside what holds its keys.
    async fn one_more(&self, operator: &mut Started, figures: &mut Vec<Figure>) -> Result<()> {
        let (mark, apps) = (self.mark()?, self.settings.apps);
        let begun = Instant::now();
        load::create(&self.client, &self.namespaces, apps..apps + 1).await?;
        load::all_ready(&self.client, apps + 1).await?;
        figures.push(Figure::info("one more App created -> Ready, s", begun.elapsed().as_secs_f64()));
        operator.ask("settle").await?;
        let asked = mark.asked()?;
        self.table("for one more App", &asked);
        let besides = asked.writes().saturating_sub(asked.objects());
        figures.push(Figure::held("writes for one more App", besides as f64, WRITES_GOAL));
        Ok(())
    }

    fn mark(&self) -> Result<Mark> {
        Mark::now(&self.settings.audit_log)
    }

    fn writes(&self, asked: &Asked, figures: &mut Vec<Figure>) {
        self.table("until all are Ready", asked);
        let apps = self.settings.apps as f64;
        let besides = asked.writes().saturating_sub(asked.objects());
        figures.push(Figure::info("objects made per App", asked.objects() as f64 / apps));
        let name = "writes per App besides its objects";
        figures.push(match self.settings.hand_over {
            // What is shared is written again for the Apps that come after it: with few Apps that weighs more.
            true => Figure::info(name, besides as f64 / apps),
            false => Figure::held(name, besides as f64 / apps, WRITES_GOAL),
        });
        figures.push(Figure::info("reads per App", asked.reads() as f64 / apps));
        let in_vain: usize = asked.in_vain.values().sum();
        figures.push(Figure::held("writes that changed nothing", in_vain as f64, 0.0));
    }

    /// Looks at everything again and again, as an idle hour does.
    async fn idle(&self, operator: &mut Started, figures: &mut Vec<Figure>) -> Result<()> {
        let mark = self.mark()?;
        let begun = Instant::now();
        let processor_s = operator.usage()?.processor_s;
        let mut reconciles = Value::Null;
        for _ in 0..self.settings.resyncs {
            reconciles = operator.ask("resync").await?;
        }
        // Each ends with a pause in which nothing happens.
        let paused = process::SETTLED * u32::try_from(self.settings.resyncs)?;
        let busy = begun.elapsed().saturating_sub(paused);
        let asked = mark.asked()?;
        self.table("in the idle hour", &asked);
        self.count_reconciles(&reconciles, &mut Vec::new());
        figures.push(Figure::held("writes in an idle hour", asked.writes() as f64, 0.0));
        figures.push(Figure::info("reads in an idle hour", asked.reads() as f64));
        figures.push(Figure::info("busy in an idle hour, s", busy.as_secs_f64()));
        let usage = operator.usage()?;
        figures.push(Figure::info("operator on a processor in it, s", usage.processor_s - processor_s));
        figures.push(Figure::printed("resident after it, MiB", usage.resident_mib, MEMORY_GOAL_MIB));
        Ok(())
    }

    /// Every App needs one Revision, since nobody changed any, and every namespace at most one of its access rules.
    async fn revisions_too_many(&self) -> Result<f64> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &Kind::Revision.resource());
        let found = api.list(&ListParams::default()).await.context("list Revisions")?.items;
        let of_apps = found.iter().filter(|one| one.metadata.owner_references.is_some()).count();
        let others = found.len() - of_apps;
        Ok((of_apps.saturating_sub(self.settings.apps + 1) + others.saturating_sub(self.namespaces.len()))
            as f64)
    }

    fn count_reconciles(&self, said: &Value, figures: &mut Vec<Figure>) {
        let apps = self.settings.apps as f64;
        let of = |kind: &str, field: &str| said[kind][field].as_f64().unwrap_or_default();
        figures.push(Figure::info("reconciles per App", of("app", "ok") / apps));
        figures.push(Figure::info("reconciles of namespaces", of("namespace", "ok")));
        figures.push(Figure::info("reconciles that failed", of("app", "error") + of("namespace", "error")));
        if self.settings.output == Output::Text {
            eprintln!("since the start: {said}");
        }
    }

    /// What was asked, for people who look for the reason.
    fn table(&self, when: &str, asked: &Asked) {
        if self.settings.output == Output::Json {
            return;
        }
        for ((verb, resource), count) in &asked.by_kind {
            eprintln!("{when}: {count:>7} {verb} {resource}");
        }
        for (resource, count) in &asked.in_vain {
            eprintln!("{when}: {count:>7} in vain: {resource}");
        }
        for (code, count) in &asked.refused {
            eprintln!("{when}: {count:>7} answered {code}");
        }
    }
}

/// How long one App takes from its creation.
fn each(created: &Created, ready: &HashMap<(String, String), Instant>) -> Vec<Figure> {
    let mut took: Vec<Duration> = created
        .iter()
        .filter_map(|(place, created)| Some(ready.get(place)?.saturating_duration_since(*created)))
        .collect();
    took.sort();
    let at = |share: f64| {
        let index = (took.len().saturating_sub(1) as f64 * share).round();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index below the length"
        )]
        took.get(index as usize).map_or(0.0, Duration::as_secs_f64)
    };
    vec![
        Figure::info("one App created -> Ready, median, s", at(0.5)),
        Figure::info("one App created -> Ready, most, s", at(1.0)),
    ]
}
