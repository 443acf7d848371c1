//! What was gathered in, every object that the namespace should have out, in the order in which it is safe, and what it
//! should have no more. Pure and total; random bytes are an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::DynamicObject;
use millrace_crds::app::AppSpec;
use millrace_crds::crd::API_VERSION;
use millrace_crds::labels;
use millrace_crds::resolved::{Role, Sensitive};
use millrace_crds::revision::{Revision, RevisionSpec};

use super::access::Access;
use super::gather::Gathered;
use super::planes::Member;
use super::read;
use super::resolved::{self, BackendsOf, Keys};
use crate::cluster::{MANAGER, ObjectKey};
use crate::context::Accounts;
use crate::fields::owners::others_count_pods;
use crate::installation::Installation;
use crate::kind::Kind;
use crate::plan::{Plan, Step};
use crate::workloads::sizes::{self, Count, CountedBy, Size};
use crate::workloads::spills::{self, Empty};
use crate::workloads::{self, DataPlane, Intended, KINDS, anchor, volumes};

/// Random bytes of each generated key and token.
const KEY_BYTES: usize = 32;

/// What is set for all namespaces.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) installation: &'a Installation,
    pub(super) accounts: &'a Accounts,
    pub(super) operator_namespace: &'a str,
    pub(super) random: fn(&mut [u8]),
}

/// Plans a namespace.
pub(super) fn plan(gathered: &Gathered, access: &Access<'_>, given: &Given<'_>) -> Plan {
    let mut intents = Vec::new();
    let planes = gathered.planes();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    let mut live = Vec::new();
    for (name, members) in &planes {
        match shaped(name, members, gathered, given) {
            Some((spec, backends)) => live.push((name.as_str(), members, spec, backends)),
            None => drop(kept.insert(name)),
        }
    }
    let keys = keys(gathered, given.random);
    if !live.is_empty() {
        intents.extend(key_secrets(gathered, &keys));
    }
    intents.extend(access.publish.iter().map(|spec| revision(gathered, spec)));
    for (name, members, spec, backends) in live {
        let owner = match owner(name, members, gathered) {
            Owner::Itself(app) => app,
            Owner::Anchor { intent, there } => {
                intents.push(*intent);
                let Some(anchor) = there else {
                    kept.insert(name);
                    continue;
                };
                anchor
            }
        };
        let plane = Plane { name, members, spec, backends: &backends, owner, gathered, given };
        intents.extend(plane.secrets(&keys));
        intents.extend(plane.objects());
    }
    let planned: BTreeSet<ObjectKey> = intents.iter().map(|intent| intent.key.clone()).collect();
    let apply = |intent: Intended| Step::Apply { key: intent.key, intent: Box::new(intent.object) };
    let mut steps: Vec<Step> = intents.into_iter().map(apply).collect();
    steps.extend(removals(gathered, &planned, &kept));
    steps.extend(access.outdated.iter().map(|revision| Step::Delete {
        key: ObjectKey::new(Kind::Revision, &gathered.namespace, &revision.name),
        uid: revision.uid.clone(),
    }));
    Plan { steps, ..Plan::default() }
}

/// What shapes a data plane: its App's spec where it has one of its own, and its back ends. `None` while nobody in it can
/// be acted on: then it stays as it is.
fn shaped<'a>(
    name: &str,
    members: &[Member<'a>],
    gathered: &Gathered,
    given: &Given<'_>,
) -> Option<(Option<&'a AppSpec>, BackendsOf)> {
    let live = members.iter().find_map(|member| member.live)?;
    let own = (name != labels::SHARED).then_some(live);
    let of_app = own.map(|spec| (spec, gathered));
    Some((own, resolved::backends(given.installation, given.accounts, of_app)?))
}

/// What the objects of a data plane go with.
enum Owner {
    /// One of an App's own is ruled by that App.
    Itself(OwnerReference),
    /// A shared one goes with the last of its Apps, by way of its anchor.
    Anchor {
        intent: Box<Intended>,
        /// `None` until the anchor is there to be named: then the data plane stays as it is until the next round.
        there: Option<OwnerReference>,
    },
}

fn owner(plane: &str, members: &[Member<'_>], gathered: &Gathered) -> Owner {
    let of = |member: &Member<'_>, controller| OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: Kind::App.as_str().to_owned(),
        name: member.id.name().to_owned(),
        uid: member.uid.to_owned(),
        controller,
        block_owner_deletion: None,
    };
    if let Some(app) = members.first().filter(|_| plane != labels::SHARED) {
        return Owner::Itself(of(app, Some(true)));
    }
    let apps = members.iter().map(|member| of(member, None)).collect();
    let intent = Box::new(anchor::anchor(&gathered.namespace, apps));
    let there = gathered.owned.get(&intent.key).and_then(|found| anchor::owner(found));
    Owner::Anchor { intent, there }
}

/// A data plane that is brought to what it should be.
struct Plane<'a> {
    name: &'a str,
    members: &'a [Member<'a>],
    spec: Option<&'a AppSpec>,
    backends: &'a BackendsOf,
    owner: OwnerReference,
    gathered: &'a Gathered,
    given: &'a Given<'a>,
}

impl Plane<'_> {
    /// One Secret per role.
    fn secrets(&self, keys: &Keys) -> Vec<Intended> {
        let privacy = resolved::privacy(self.members, self.gathered);
        let secret = |role| {
            let content = resolved::resolved(role, keys, self.backends, &privacy);
            let content = serde_json::to_string(&content).expect("texts and maps of texts are valid JSON");
            let metadata = ObjectMeta {
                labels: Some(workloads::labels_of(self.name, Some(role))),
                owner_references: Some(vec![self.owner.clone()]),
                ..named(&self.gathered.namespace, labels::resolved_secret(self.name, role))
            };
            secret_of(metadata, [(labels::RESOLVED, content.as_str())])
        };
        Role::ALL.into_iter().map(secret).collect()
    }

    fn objects(&self) -> Vec<Intended> {
        let sizes = Role::ALL.into_iter().map(|role| (role, self.size(role))).collect();
        workloads::objects(&DataPlane {
            namespace: &self.gathered.namespace,
            name: self.name,
            owner: Some(&self.owner),
            sizes: &sizes,
            backends: &self.backends.addresses,
            installation: self.given.installation,
            operator_namespace: self.given.operator_namespace,
        })
    }

    /// What the workload that is there says of it: the number of its pods may be somebody else's.
    fn size(&self, role: Role) -> Size {
        let app = self.spec.map(|spec| &spec.dataplane);
        let mut size = sizes::size(role, &self.given.installation.dataplane, app);
        let name = labels::role_object(self.name, role);
        let found = |kind| self.gathered.owned.get(&ObjectKey::new(kind, &self.gathered.namespace, &name));
        if let Some(set) = found(Kind::StatefulSet) {
            // It cannot change; the Apps say where it is not as wanted.
            size.volume = size.volume.map(|wanted| volumes::of_set(set).unwrap_or(wanted));
            if role == Role::Ingest {
                size = self.past_spills(size, set);
            }
        }
        if let Some(workload) = found(Kind::Deployment) {
            let pods = workload.data["spec"]["replicas"].as_u64().and_then(|pods| u32::try_from(pods).ok());
            let counted_by = match others_count_pods(workload, MANAGER) {
                true => CountedBy::Others,
                false => CountedBy::Us,
            };
            size.count = size.count.beside(pods, counted_by);
        }
        size
    }

    /// Pods whose volumes may hold something stay, and the set with them. The Apps say so.
    fn past_spills(&self, size: Size, set: &DynamicObject) -> Size {
        let empty = Empty::of(self.gathered.pods.iter().filter_map(|pod| pod.said.as_ref()));
        let wanted = size.with_volume();
        let Some(in_the_way) = empty.in_the_way(set, wanted) else { return size };
        if wanted > 0 {
            return Size { count: Count::Fixed(in_the_way.kept), ..size };
        }
        // Without a spill they are no set any more; it goes as a whole.
        Size { count: Count::Fixed(spills::pods(set)), volume: volumes::of_set(set), ..size }
    }
}

/// Existing keys and tokens as they are, new ones where there are none.
fn keys(gathered: &Gathered, random: fn(&mut [u8])) -> Keys {
    let made = || {
        let mut bytes = [0; KEY_BYTES];
        random(&mut bytes);
        bytes
    };
    let token = || URL_SAFE_NO_PAD.encode(made());
    let of = |secret: &str, key: &str, make: &dyn Fn() -> String| {
        Sensitive::new(gathered.text(secret, key).map_or_else(make, ToOwned::to_owned))
    };
    Keys {
        pepper: of(labels::PEPPER_SECRET, labels::PEPPER, &|| hex::encode(made())),
        admin: of(labels::ADMIN_SECRET, labels::ADMIN_TOKEN, &|| format!("mra_{}", token())),
        state: of(labels::ADMIN_SECRET, labels::STATE_TOKEN, &token),
    }
}

/// Without owner and never removed: digests and people rely on them.
fn key_secrets(gathered: &Gathered, keys: &Keys) -> [Intended; 2] {
    let metadata =
        |name: &str| ObjectMeta { labels: Some(our_labels()), ..named(&gathered.namespace, name.to_owned()) };
    let pepper = secret_of(metadata(labels::PEPPER_SECRET), [(labels::PEPPER, keys.pepper.expose())]);
    let tokens = [(labels::ADMIN_TOKEN, keys.admin.expose()), (labels::STATE_TOKEN, keys.state.expose())];
    [pepper, secret_of(metadata(labels::ADMIN_SECRET), tokens)]
}

fn our_labels() -> BTreeMap<String, String> {
    [(labels::MANAGED_BY, labels::MANAGER), (labels::NAME, labels::PRODUCT)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn named(namespace: &str, name: String) -> ObjectMeta {
    ObjectMeta { name: Some(name), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() }
}

fn secret_of<const N: usize>(metadata: ObjectMeta, values: [(&str, &str); N]) -> Intended {
    let data = values.map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())));
    let secret =
        Secret { metadata, type_: Some("Opaque".to_owned()), data: Some(data.into()), ..Secret::default() };
    workloads::intended(Kind::Secret, &secret)
}

/// Without owner: it speaks of all Apps.
fn revision(gathered: &Gathered, spec: &RevisionSpec) -> Intended {
    let mut of_access = our_labels();
    of_access.insert(labels::SCOPE.to_owned(), labels::SCOPE_ACCESS.to_owned());
    let metadata = ObjectMeta {
        labels: Some(of_access),
        ..named(&gathered.namespace, labels::revision(labels::SCOPE_ACCESS, spec.sequence))
    };
    workloads::intended(Kind::Revision, &Revision { metadata, spec: spec.clone() })
}

/// What is ours and not planned any more, in data planes that are not left as they are. Secrets of a data plane that is
/// gone go before its last object, by which they are found.
fn removals(gathered: &Gathered, planned: &BTreeSet<ObjectKey>, kept: &BTreeSet<&str>) -> Vec<Step> {
    let unwanted = |key: &ObjectKey, object: &DynamicObject| {
        let plane = read::label(object, labels::DATA_PLANE);
        plane.is_some_and(|plane| !kept.contains(plane) && is_named_by_us(&key.name, plane))
            && !planned.contains(key)
    };
    let delete = |(key, object): (&ObjectKey, &Arc<DynamicObject>)| {
        Some(Step::Delete { key: key.clone(), uid: object.metadata.uid.clone()? })
    };
    let mut steps = Vec::new();
    for kind in KINDS {
        if kind == Kind::RoleBinding {
            steps.extend(abandoned_secrets(gathered));
        }
        let objects = gathered.owned.iter().filter(|(key, object)| key.kind == kind && unwanted(key, object));
        steps.extend(objects.filter_map(delete));
    }
    steps
}

/// Our labels on an object of another name were copied, not written by us.
fn is_named_by_us(name: &str, plane: &str) -> bool {
    let is_anchor = plane == labels::SHARED && name == labels::SHARED_ANCHOR;
    is_anchor
        || Role::ALL.into_iter().any(|role| {
            let rest = name.strip_prefix(&labels::role_object(plane, role));
            rest.is_some_and(|rest| rest.is_empty() || rest == "-pods")
        })
}

fn abandoned_secrets(gathered: &Gathered) -> Vec<Step> {
    let mut steps = Vec::new();
    for plane in gathered.abandoned() {
        for role in Role::ALL {
            let name = labels::resolved_secret(plane, role);
            let known = gathered.secrets.get(&name).filter(|known| resolved::is_ours(&known.secret, plane));
            steps.extend(known.map(|known| Step::Delete {
                key: ObjectKey::new(Kind::Secret, &gathered.namespace, &name),
                uid: known.uid.clone(),
            }));
        }
    }
    steps
}
