//! The sets of an App's data plane in, whether their volumes are as wanted out. Pure.

use std::sync::Arc;

use kube::core::DynamicObject;
use millrace_crds::app::App;
use millrace_crds::conditions::{Status, VOLUMES_READY, reason};
use millrace_crds::labels;
use millrace_crds::resolved::Role;

use super::gather::{self, Gathered};
use super::status::Verdict;
use crate::installation::Installation;
use crate::workloads::sizes::{self, Size};
use crate::workloads::spills::{Empty, InTheWay};
use crate::workloads::volumes::{Mismatch, mismatch};

/// What there is to say: nothing while all was always as wanted.
pub(crate) fn judge(gathered: &Gathered, app: &App, installation: &Installation) -> Option<Verdict> {
    let is_own = gather::data_plane(&gathered.id, &gathered.object) != labels::SHARED;
    let own = is_own.then_some(&app.spec.dataplane);
    let of = |(role, set): &(Role, Arc<DynamicObject>)| {
        let wanted = sizes::size(*role, &installation.dataplane, own).volume?;
        mismatch(set, &wanted)
    };
    let waiting = gathered.sets.iter().filter_map(|(role, set)| {
        let wanted = sizes::size(*role, &installation.dataplane, own);
        (*role == Role::Ingest).then(|| waits(gathered, set, &wanted)).flatten()
    });
    let waiting: Vec<String> = waiting.collect();
    let (mut to_grow, mut refused) = (Vec::new(), Vec::new());
    for found in gathered.sets.iter().filter_map(of) {
        match found {
            Mismatch::ToGrow { message } => to_grow.push(message),
            Mismatch::Refused { message } => refused.push(message),
        }
    }
    let why = match (refused.is_empty(), to_grow.is_empty()) {
        (false, _) => reason::INCOMPATIBLE,
        (true, false) => reason::RESIZE_NEEDED,
        (true, true) => reason::NOT_EMPTY,
    };
    let messages = [refused, to_grow, waiting].concat();
    if !messages.is_empty() {
        return Some(Verdict::new(Status::False, why, &messages.join("\n")));
    }
    let was_judged = gathered.status.conditions.iter().any(|known| known.type_ == VOLUMES_READY);
    was_judged.then(|| Verdict::ok("all volumes are as wanted"))
}

/// Why a set of ingest pods stays larger than wanted, or stays at all.
fn waits(gathered: &Gathered, set: &DynamicObject, wanted: &Size) -> Option<String> {
    let count = wanted.with_volume();
    let said = gathered.pods.iter().filter_map(|pod| pod.said.as_ref()?.as_ref().ok());
    let InTheWay { pod, kept } = Empty::of(said).in_the_way(set, count)?;
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let instead =
        if count > 0 { format!("{count} are wanted") } else { "none with a spill is wanted".to_owned() };
    Some(format!(
        "StatefulSet `{name}` keeps {kept} pods though {instead}: pod `{pod}` has not said that nothing waits on its volume. \
         It goes by itself once Kafka has taken what it holds. To give that up: `kubectl -n {namespace} delete statefulset \
         {name} --cascade=orphan`, and the pod"
    ))
}
