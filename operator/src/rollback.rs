//! `millrace-operator rollback`: an App or `access` and a sequence in; a new Revision with the old bytes out, held, so that
//! the next reconcile publishes nothing over it. `--resume` lets it publish again.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;
use millrace_crds::app::Rollout;
use millrace_crds::labels::{self, SCOPE_ACCESS};
use millrace_crds::revision::{HOLD_ANNOTATION, RevisionSpec};
use serde_json::{Value, json};

use crate::cluster::live::{self, ConnectError, Live};
use crate::cluster::{Cluster, ClusterError, ObjectKey};
use crate::kind::Kind;
use crate::metrics::Metrics;

/// What to roll back, and where to.
#[derive(Clone, Debug, Args)]
pub struct RollbackArgs {
    /// Name of the App, or `access` for the access rules of the namespace
    pub app: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Sequence of the Revision to go back to; by default the last one that says something else than the newest
    #[arg(long, conflicts_with = "resume")]
    pub to: Option<i64>,
    /// Publish again what the resources say now
    #[arg(long)]
    pub resume: bool,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A sentence.
    Text,
    /// An object.
    Json,
}

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The App; none for `access`.
    pub app: Option<Arc<DynamicObject>>,
    /// All Revisions of the scope.
    pub revisions: Vec<Arc<DynamicObject>>,
}

/// What is to be written, in this order: the hold first, so that nothing comes between.
#[derive(Clone, Debug)]
pub struct Decided {
    /// Full intents, by key.
    pub writes: Vec<(ObjectKey, DynamicObject)>,
    /// Sequence that pods will run, when it is known.
    pub sequence: Option<i64>,
    /// Sequence whose bytes it has.
    pub from: Option<i64>,
}

/// Why nothing was rolled back.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// No such App.
    #[error("there is no App `{app}` in namespace `{namespace}`; name another with `-n`")]
    NoApp {
        /// Its name.
        app: String,
        /// The namespace.
        namespace: String,
    },
    /// Nothing was published yet, or nothing else.
    #[error("`{scope}` has no older Revision that says something else; there is nothing to go back to")]
    NothingOlder {
        /// The scope.
        scope: String,
    },
    /// No such Revision.
    #[error("`{scope}` has no Revision {sequence}; there are {known}")]
    NoRevision {
        /// The scope.
        scope: String,
        /// The sequence asked for.
        sequence: i64,
        /// Those there are.
        known: String,
    },
    /// There is nothing to resume.
    #[error("`{scope}` is not held; there is nothing to resume")]
    NotHeld {
        /// The scope.
        scope: String,
    },
    /// No way to the cluster.
    #[error("cannot connect to the cluster")]
    Connect {
        /// Why.
        #[from]
        source: ConnectError,
    },
    /// Reading failed.
    #[error("cannot read {what}")]
    Read {
        /// What.
        what: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Writing failed.
    #[error("cannot write what was decided; run it again")]
    Write {
        /// Why.
        #[from]
        source: ClusterError,
    },
    /// This process cannot run what waits.
    #[error("cannot start the runtime")]
    Runtime {
        /// Why.
        source: std::io::Error,
    },
    /// Metrics, which every client of the cluster counts in.
    #[error("cannot register metrics")]
    Metrics {
        /// Why.
        #[from]
        source: prometheus::Error,
    },
}

/// Runs the command against the cluster of the environment; what was done goes to `out`.
pub fn run(args: &RollbackArgs, out: &mut Vec<u8>) -> Result<(), RollbackError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| RollbackError::Runtime { source })?.block_on(async {
        let client = live::connect().await?;
        let seen = read(&client, args).await?;
        let decided = decide(args, &seen)?;
        let cluster = Live::new(client, Arc::new(Metrics::new()?), "rollback".to_owned());
        write(&cluster, &decided).await?;
        // Writing to a vector cannot fail.
        _ = writeln!(out, "{}", told(args, &decided));
        Ok(())
    })
}

async fn read(client: &kube::Client, args: &RollbackArgs) -> Result<Seen, RollbackError> {
    let api = |kind: Kind| -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), &args.namespace, &kind.resource())
    };
    let failed = |what| move |source| RollbackError::Read { what, source: Box::new(source) };
    let app = if args.app == SCOPE_ACCESS {
        None
    } else {
        api(Kind::App).get_opt(&args.app).await.map_err(failed("the App"))?
    };
    let of_scope = ListParams::default().labels(&format!("{}={}", labels::SCOPE, args.app));
    let revisions = api(Kind::Revision).list(&of_scope).await.map_err(failed("its Revisions"))?;
    Ok(Seen { app: app.map(Arc::new), revisions: revisions.into_iter().map(Arc::new).collect() })
}

/// Carries out what was decided.
pub async fn write(cluster: &dyn Cluster, decided: &Decided) -> Result<(), ClusterError> {
    for (key, intent) in &decided.writes {
        cluster.apply(key, intent).await?;
    }
    Ok(())
}

/// What is to be done; pure.
pub fn decide(args: &RollbackArgs, seen: &Seen) -> Result<Decided, RollbackError> {
    let is_access = args.app == SCOPE_ACCESS;
    if !is_access && seen.app.is_none() {
        return Err(RollbackError::NoApp { app: args.app.clone(), namespace: args.namespace.clone() });
    }
    let mut known: Vec<(RevisionSpec, &DynamicObject)> = seen
        .revisions
        .iter()
        .filter_map(|object| Some((serde_json::from_value(object.data["spec"].clone()).ok()?, &**object)))
        .collect();
    known.sort_by_key(|(spec, _)| spec.sequence);
    if args.resume {
        return resume(args, seen, &known);
    }
    let scope = || args.app.clone();
    let Some((newest, newest_object)) = known.last() else {
        return Err(RollbackError::NothingOlder { scope: scope() });
    };
    let old = match args.to {
        Some(sequence) => known.iter().find(|(spec, _)| spec.sequence == sequence).ok_or_else(|| {
            RollbackError::NoRevision {
                scope: scope(),
                sequence,
                known: known.iter().map(|(spec, _)| spec.sequence.to_string()).collect::<Vec<_>>().join(", "),
            }
        })?,
        None => known
            .iter()
            .rev()
            .find(|(spec, _)| spec.config != newest.config)
            .ok_or_else(|| RollbackError::NothingOlder { scope: scope() })?,
    };
    let sequence = newest.sequence + 1;
    let spec = RevisionSpec { sequence, rollout: Rollout::default(), ..old.0.clone() };
    let mut writes = Vec::new();
    if !is_access {
        writes.push(annotated(Kind::App, args, &args.app, Some(&sequence.to_string())));
    }
    writes.push(revision(args, newest_object, &spec));
    Ok(Decided { writes, sequence: Some(sequence), from: Some(old.0.sequence) })
}

fn resume(
    args: &RollbackArgs,
    seen: &Seen,
    known: &[(RevisionSpec, &DynamicObject)],
) -> Result<Decided, RollbackError> {
    let is_held = |object: &DynamicObject| {
        object.metadata.annotations.as_ref().is_some_and(|known| known.contains_key(HOLD_ANNOTATION))
    };
    let mut held: Vec<(Kind, &str)> = Vec::new();
    match &seen.app {
        Some(app) if is_held(app) => held.push((Kind::App, &args.app)),
        Some(_) => {}
        None => {
            let revisions = known.iter().filter(|(_, object)| is_held(object));
            held.extend(
                revisions.filter_map(|(_, object)| Some((Kind::Revision, object.metadata.name.as_deref()?))),
            );
        }
    }
    if held.is_empty() {
        return Err(RollbackError::NotHeld { scope: args.app.clone() });
    }
    // Taken over first, because whoever set it by hand owns it, and only an owner can leave it out.
    let writes = held.into_iter().flat_map(|(kind, name)| {
        [annotated(kind, args, name, Some("ending")), annotated(kind, args, name, None)]
    });
    Ok(Decided { writes: writes.collect(), sequence: None, from: None })
}

/// An object with the hold and nothing else of ours, or with nothing of ours.
fn annotated(kind: Kind, args: &RollbackArgs, name: &str, hold: Option<&str>) -> (ObjectKey, DynamicObject) {
    let annotations: BTreeMap<&str, &str> = hold.map(|hold| (HOLD_ANNOTATION, hold)).into_iter().collect();
    let metadata = json!({"name": name, "namespace": args.namespace, "annotations": annotations});
    object(kind, args, name, json!({ "metadata": metadata }))
}

/// The new Revision, in the place of the newest one. That of `access` holds itself.
fn revision(args: &RollbackArgs, newest: &DynamicObject, spec: &RevisionSpec) -> (ObjectKey, DynamicObject) {
    let name = labels::revision(&args.app, spec.sequence);
    let mut metadata = json!({
        "name": name,
        "namespace": args.namespace,
        "labels": newest.metadata.labels,
    });
    if newest.metadata.owner_references.is_some() {
        metadata["ownerReferences"] = json!(newest.metadata.owner_references);
    }
    if args.app == SCOPE_ACCESS {
        metadata["annotations"] = json!({HOLD_ANNOTATION: spec.sequence.to_string()});
    }
    object(Kind::Revision, args, &name, json!({ "metadata": metadata, "spec": spec }))
}

fn object(kind: Kind, args: &RollbackArgs, name: &str, mut value: Value) -> (ObjectKey, DynamicObject) {
    let resource = kind.resource();
    value["apiVersion"] = resource.api_version.into();
    value["kind"] = resource.kind.into();
    let intent = serde_json::from_value(value).expect("metadata of texts, and a spec");
    (ObjectKey::new(kind, &args.namespace, name), intent)
}

fn told(args: &RollbackArgs, decided: &Decided) -> String {
    let scope = &args.app;
    match (args.output, decided.sequence, decided.from) {
        (Output::Json, sequence, from) => {
            let action = if args.resume { "resume" } else { "rollback" };
            json!({"scope": scope, "namespace": args.namespace, "action": action, "sequence": sequence, "from": from})
                .to_string()
        }
        (Output::Text, Some(sequence), Some(from)) => format!(
            "`{scope}` goes back to Revision {from}, as Revision {sequence}, and is held there; \
             `millrace-operator rollback {scope} -n {} --resume` publishes what the resources say",
            args.namespace
        ),
        (Output::Text, _, _) => format!("`{scope}` is no longer held; what the resources say is published"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_did_for_people_and_for_programs() {
        let args = |resume, output| RollbackArgs {
            app: "shop".to_owned(),
            namespace: "default".to_owned(),
            to: None,
            resume,
            output,
        };
        let back = Decided { writes: vec![], sequence: Some(8), from: Some(6) };
        let text = told(&args(false, Output::Text), &back);
        assert!(
            text.starts_with("`shop` goes back to Revision 6, as Revision 8, and is held there; "),
            "{text}"
        );
        let value: Value = serde_json::from_str(&told(&args(false, Output::Json), &back)).unwrap();
        assert_eq!((&value["sequence"], &value["from"]), (&json!(8), &json!(6)));
        let resumed = Decided { writes: vec![], sequence: None, from: None };
        assert!(told(&args(true, Output::Text), &resumed).contains("no longer held"));
    }
}
