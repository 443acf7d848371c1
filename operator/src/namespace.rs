//! A namespace in, everything that its Apps share out: gather → judge → plan → apply → status. The only writer of all
//! workloads of the namespace, its keys, the resolved Secrets and the Revisions of scope `access`, and of the status of
//! RolePolicies and Integrations. Topics, tables and the Revisions of Apps are the App reconcile's.

mod access;
mod gather;
mod plan;
mod planes;
mod pods;
mod read;
mod resolved;
mod status;

use std::time::Duration;

use jiff::Timestamp;
use millrace_crds::labels;

use crate::apply;
use crate::context::{Context, Next, ReconcileError};
use crate::workloads::anchor;
use gather::Gathered;

/// How soon an App's Secret is looked for again: its reconcile writes it within moments, and nothing tells of Secrets.
const SECRET_SOON: Duration = Duration::from_secs(1);
/// When to come again once the anchor was made: everything else waits for its UID, and our own write wakes nobody.
const ANCHOR_MADE: Duration = Duration::ZERO;
/// How often Secrets that resources name are read again.
const SECRETS_AGAIN: Duration = Duration::from_secs(60);

/// Brings a namespace to what its custom resources say.
///
/// Guarantees: an unchanged namespace costs no write; a crash between any two writes is mended by the next round; what does
/// not carry our labels and a name of ours is never removed, volumes and keys never at all.
pub async fn reconcile(context: &Context, namespace: &str, now: Timestamp) -> Result<Next, ReconcileError> {
    let gathered = gather::gather(context, namespace).await?;
    if gathered.is_terminating {
        // Everything goes with the namespace, and nothing new can be made in it.
        return Ok(Next::OnChange);
    }
    let access = access::access(&gathered, now);
    let plan = plan::plan(
        &gathered,
        &access,
        &plan::Given {
            installation: &context.installation,
            accounts: &context.accounts,
            operator_namespace: &context.operator_namespace,
            random: context.random,
        },
    );
    let applied = apply::carry_out(context, &plan).await;
    // Also when a step failed: people see how things stand before they see why it goes no further.
    status::write(context, &gathered, &access, now).await?;
    applied?;
    Ok(next(&gathered, &access))
}

/// When to look again if no watch says so earlier.
fn next(gathered: &Gathered, access: &access::Access<'_>) -> Next {
    let planes = gathered.planes();
    let is_shared = planes.get(labels::SHARED).into_iter().flatten().any(|member| member.live.is_some());
    let made_anchor = is_shared && !gathered.owned.contains_key(&anchor::key(&gathered.namespace));
    let waits_for_keys = planes
        .values()
        .flatten()
        .filter(|member| member.live.is_some())
        .any(|member| gathered.text(&labels::app_secret(&member.id), labels::PRIVACY_KEYS).is_none());
    let is_starting = access.newest.as_ref().is_some_and(|newest| newest.progress.starting > 0);
    let names_secrets = gathered.integrations.iter().any(|found| found.typed.is_ok())
        || gathered.apps.iter().any(|app| app.typed.as_ref().is_ok_and(|app| app.spec.connections.is_some()));
    if made_anchor {
        Next::After(ANCHOR_MADE)
    } else if waits_for_keys {
        Next::After(SECRET_SOON)
    } else if is_starting || names_secrets {
        Next::After(SECRETS_AGAIN)
    } else {
        Next::OnChange
    }
}
