//! Apps and their Revisions in, data planes and who is in them out. Pure.
//!
//! An App is where its spec puts it and, while its newest Revision still names another data plane, there too: a change of
//! placement takes nothing away before the new place has something to run. An App that cannot be acted on now (invalid,
//! paused, being deleted) stays where it runs and keeps what is there from being removed, no more.

use std::collections::BTreeMap;

use millrace_crds::app::{App, AppSpec, Placement};
use millrace_crds::names::AppId;
use millrace_crds::{labels, validate};

use super::read::{Found, Published};

/// Data planes by name, each with at least one member.
pub(super) type Planes<'a> = BTreeMap<String, Vec<Member<'a>>>;

/// An App in a data plane.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    pub(super) id: AppId,
    pub(super) uid: &'a str,
    /// What it wants, where that may be acted on.
    pub(super) live: Option<&'a AppSpec>,
}

/// Sorts Apps into data planes.
pub(super) fn planes<'a>(namespace: &str, apps: &'a [Found<App>], revisions: &[Published]) -> Planes<'a> {
    let mut planes = Planes::new();
    for app in apps {
        let Ok(id) = AppId::new(namespace, &app.name) else { continue };
        let valid = app.typed.as_ref().ok().filter(|app| validate::app(app).is_empty());
        let wanted = valid.map(|app| match app.spec.dataplane.placement {
            Placement::Shared => labels::SHARED,
            Placement::Dedicated => id.name(),
        });
        let live = valid.filter(|_| !app.is_paused() && !app.is_deleting()).map(|app| &app.spec);
        let running = running(&id, revisions);
        for plane in [wanted, running.filter(|running| Some(*running) != wanted)].into_iter().flatten() {
            let member = Member {
                id: id.clone(),
                uid: &app.uid,
                // Only the place it wants is shaped by what it says.
                live: live.filter(|_| wanted == Some(plane)),
            };
            planes.entry(plane.to_owned()).or_default().push(member);
        }
    }
    planes
}

/// The data plane of an App's newest Revision.
fn running<'a>(id: &AppId, revisions: &'a [Published]) -> Option<&'a str> {
    let newest = revisions
        .iter()
        .filter(|revision| revision.scope == id.name())
        .max_by_key(|revision| revision.sequence)?;
    newest.plane.as_deref().filter(|plane| *plane == labels::SHARED || *plane == id.name())
}
