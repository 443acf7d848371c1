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
use crate::workloads::sizes;
use crate::workloads::volumes::{Mismatch, mismatch};

/// What there is to say: nothing while all was always as wanted.
pub(crate) fn judge(gathered: &Gathered, app: &App, installation: &Installation) -> Option<Verdict> {
    let is_own = gather::data_plane(&gathered.id, &gathered.object) != labels::SHARED;
    let own = is_own.then_some(&app.spec.dataplane);
    let of = |(role, set): &(Role, Arc<DynamicObject>)| {
        let wanted = sizes::size(*role, &installation.dataplane, own).volume?;
        mismatch(set, &wanted)
    };
    let (mut to_grow, mut refused) = (Vec::new(), Vec::new());
    for found in gathered.sets.iter().filter_map(of) {
        match found {
            Mismatch::ToGrow { message } => to_grow.push(message),
            Mismatch::Refused { message } => refused.push(message),
        }
    }
    let why = if refused.is_empty() { reason::RESIZE_NEEDED } else { reason::INCOMPATIBLE };
    let messages = [refused, to_grow].concat();
    if !messages.is_empty() {
        return Some(Verdict::new(Status::False, why, &messages.join("\n")));
    }
    let was_judged = gathered.status.conditions.iter().any(|known| known.type_ == VOLUMES_READY);
    was_judged.then(|| Verdict::ok("all volumes are as wanted"))
}
