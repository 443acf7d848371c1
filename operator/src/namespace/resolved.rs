//! Keys and credentials in, what each role gets of them out. Pure. A role gets only what it needs; an App's back end only
//! what the App brought for it.

use std::collections::BTreeMap;

use millrace_crds::app::{AppSpec, ConnectionSpec, Connections};
use millrace_crds::manifest::Secret;
use millrace_crds::names::AppId;
use millrace_crds::problem::{ObjectRef, Report};
use millrace_crds::resolved::{Credentials, PrivacyKeys, Resolved, Role, Sensitive};
use millrace_crds::validate::SecretUse;
use millrace_crds::{crd, labels};

use super::gather::Gathered;
use super::planes::Member;
use crate::context::Accounts;
use crate::installation::Installation;
use crate::workloads::Addresses;

/// What all data planes of a namespace share.
pub(super) struct Keys {
    /// Pepper of the write keys.
    pub(super) pepper: Sensitive,
    /// The bootstrap admin's token.
    pub(super) admin: Sensitive,
    /// What the operator presents to pods.
    pub(super) state: Sensitive,
}

/// The back ends of one data plane, with an account for each role.
pub(super) struct BackendsOf {
    pub(super) addresses: Addresses,
    kafka: BTreeMap<Role, Credentials>,
    clickhouse: BTreeMap<Role, Credentials>,
}

/// How pods prove who they are to an App's own Kafka where the installation names no way: the strongest that brokers
/// offer for a user name and a password.
const MECHANISM: &str = "SCRAM-SHA-512";

/// The back ends of a data plane; `None` while credentials that an App names are not there to be used.
pub(super) fn backends(
    installation: &Installation,
    accounts: &Accounts,
    app: Option<(&AppSpec, &Gathered)>,
) -> Option<BackendsOf> {
    let mut backends = BackendsOf {
        addresses: Addresses {
            kafka: installation.kafka.brokers.clone(),
            kafka_tls: installation.kafka.tls,
            kafka_mechanism: installation.kafka.sasl_mechanism.clone(),
            clickhouse: installation.clickhouse.url.clone(),
        },
        kafka: accounts.kafka.clone(),
        clickhouse: accounts.clickhouse.clone(),
    };
    let Some((spec, gathered)) = app else { return Some(backends) };
    let Some(Connections { kafka, clickhouse }) = &spec.connections else { return Some(backends) };
    if !are_usable(spec, gathered) {
        return None;
    }
    let for_all = |own: &ConnectionSpec| {
        let account = credentials(own, gathered)?;
        Some(Role::ALL.into_iter().map(|role| (role, account.clone())).collect())
    };
    if let Some(own) = kafka {
        backends.addresses.kafka.clone_from(&own.endpoint);
        backends.addresses.kafka_mechanism.get_or_insert_with(|| MECHANISM.to_owned());
        backends.kafka = for_all(own)?;
    }
    if let Some(own) = clickhouse {
        backends.addresses.clickhouse.clone_from(&own.endpoint);
        backends.clickhouse = for_all(own)?;
    }
    Some(backends)
}

/// Whether the Secrets with an App's credentials are there, labelled for use and filled.
fn are_usable(spec: &AppSpec, gathered: &Gathered) -> bool {
    let mut report = Report::new(ObjectRef::new(crd::Kind::App.as_str(), &gathered.namespace, ""));
    let uses = SecretUse::of_app(spec);
    for usage in uses.iter().filter(|usage| usage.purpose == millrace_crds::validate::Purpose::Credential) {
        usage.check(gathered.secrets.get(usage.secret).map(|known| &known.secret), &mut report);
    }
    report.into_problems().is_empty()
}

fn credentials(own: &ConnectionSpec, gathered: &Gathered) -> Option<Credentials> {
    let name = &own.credentials_ref.name;
    Some(Credentials {
        username: gathered.text(name, "username")?.to_owned(),
        password: Sensitive::new(gathered.text(name, "password")?.to_owned()),
    })
}

/// Privacy keys of the members that have them yet.
pub(super) fn privacy(members: &[Member<'_>], gathered: &Gathered) -> BTreeMap<AppId, PrivacyKeys> {
    let keys = |id: &AppId| {
        let text = gathered.text(&labels::app_secret(id), labels::PRIVACY_KEYS)?;
        serde_json::from_str(text).ok()
    };
    members.iter().filter_map(|member| Some((member.id.clone(), keys(&member.id)?))).collect()
}

/// What one role gets.
pub(super) fn resolved(
    role: Role,
    keys: &Keys,
    backends: &BackendsOf,
    privacy: &BTreeMap<AppId, PrivacyKeys>,
) -> Resolved {
    let common = Resolved { state_token: Some(keys.state.clone()), ..Resolved::default() };
    let kafka = backends.kafka.get(&role).cloned();
    let clickhouse = backends.clickhouse.get(&role).cloned();
    match role {
        Role::Ingest => {
            Resolved { pepper: Some(keys.pepper.clone()), privacy: privacy.clone(), kafka, ..common }
        }
        Role::Worker => Resolved { kafka, clickhouse, ..common },
        Role::Gateway => {
            Resolved { privacy: privacy.clone(), clickhouse, admin_token: Some(keys.admin.clone()), ..common }
        }
    }
}

/// Whether this Secret is ours to remove: made by us, for this data plane.
pub(super) fn is_ours(secret: &Secret, plane: &str) -> bool {
    let is = |label: &str, value: &str| secret.labels.get(label).is_some_and(|found| found == value);
    is(labels::MANAGED_BY, labels::MANAGER) && is(labels::DATA_PLANE, plane)
}
