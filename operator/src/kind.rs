//! Every kind of object the operator reads or writes, with what the API needs to name it. One list: RBAC of the chart is
//! checked against it.

use kube::core::{ApiResource, GroupVersionKind};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `millrace.dev` App.
    App,
    /// `millrace.dev` Integration.
    Integration,
    /// `millrace.dev` RolePolicy.
    RolePolicy,
    /// `millrace.dev` Revision.
    Revision,
    /// Read by name only, never listed or watched.
    Secret,
    /// Identity of one role.
    ServiceAccount,
    /// What one role may read.
    Role,
    /// Who may.
    RoleBinding,
    /// How a role is reached.
    Service,
    /// Ingest without spill, gateway.
    Deployment,
    /// Worker, ingest with spill.
    StatefulSet,
    /// How many pods may be away at once.
    PodDisruptionBudget,
    /// Number of pods by load.
    HorizontalPodAutoscaler,
    /// Who may talk to whom.
    NetworkPolicy,
    /// A way in from outside.
    Ingress,
    /// A way in from outside, by the Gateway API.
    HttpRoute,
    /// Watched, never written.
    Pod,
    /// Read to tell whether it is being deleted, and for the cluster's id.
    Namespace,
}

/// What is done to objects of a kind, as RBAC names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read one by its name.
    Get,
    /// Read all.
    List,
    /// Be told of changes.
    Watch,
    /// Server-side apply of one that is not there.
    Create,
    /// Server-side apply of one that is there.
    Patch,
    /// Remove one.
    Delete,
}

impl Verb {
    /// As written in a Role.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// Read, and written by people.
const READ: &[Verb] = &[Verb::Get, Verb::List, Verb::Watch];
/// Read, and their finalizers set.
const READ_AND_FINALIZE: &[Verb] = &[Verb::Get, Verb::List, Verb::Watch, Verb::Patch];
/// Made, kept and removed by the operator.
const OWN: &[Verb] = &[Verb::Get, Verb::List, Verb::Watch, Verb::Create, Verb::Patch, Verb::Delete];

impl Kind {
    /// What a `Cluster` does to objects of this kind, their status apart. The chart grants exactly this.
    pub fn verbs(self) -> &'static [Verb] {
        match self {
            Self::App => READ_AND_FINALIZE,
            Self::Integration | Self::RolePolicy | Self::Pod => READ,
            // By name only: RBAC cannot limit `list` by label, and other people's Secrets are none of our business.
            Self::Secret => &[Verb::Get, Verb::Create, Verb::Patch, Verb::Delete],
            Self::Namespace => &[Verb::Get],
            Self::Revision
            | Self::ServiceAccount
            | Self::Role
            | Self::RoleBinding
            | Self::Service
            | Self::Deployment
            | Self::StatefulSet
            | Self::PodDisruptionBudget
            | Self::HorizontalPodAutoscaler
            | Self::NetworkPolicy
            | Self::Ingress
            | Self::HttpRoute => OWN,
        }
    }

    /// What the Roles of data-plane pods hold. Nobody may grant what he does not hold, so the operator holds it too: less
    /// than the right to grant anything (`escalate`).
    pub fn granted_to_pods(self) -> &'static [Verb] {
        match self {
            Self::Revision => READ,
            // The one of its role, by name.
            Self::Secret => &[Verb::Get],
            Self::App
            | Self::Integration
            | Self::RolePolicy
            | Self::ServiceAccount
            | Self::Role
            | Self::RoleBinding
            | Self::Service
            | Self::Deployment
            | Self::StatefulSet
            | Self::PodDisruptionBudget
            | Self::HorizontalPodAutoscaler
            | Self::NetworkPolicy
            | Self::Ingress
            | Self::HttpRoute
            | Self::Pod
            | Self::Namespace => &[],
        }
    }

    /// Whether its status is written, by `patch` of the subresource.
    pub fn has_own_status(self) -> bool {
        matches!(self, Self::App | Self::Integration | Self::RolePolicy)
    }

    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::App,
        Self::Integration,
        Self::RolePolicy,
        Self::Revision,
        Self::Secret,
        Self::ServiceAccount,
        Self::Role,
        Self::RoleBinding,
        Self::Service,
        Self::Deployment,
        Self::StatefulSet,
        Self::PodDisruptionBudget,
        Self::HorizontalPodAutoscaler,
        Self::NetworkPolicy,
        Self::Ingress,
        Self::HttpRoute,
        Self::Pod,
        Self::Namespace,
    ];

    /// Group, version, kind and plural.
    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    /// As written in `kind`.
    pub fn as_str(self) -> &'static str {
        self.names().2
    }

    fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        const RBAC: &str = "rbac.authorization.k8s.io";
        match self {
            Self::App => ("millrace.dev", "v1alpha1", "App", "apps"),
            Self::Integration => ("millrace.dev", "v1alpha1", "Integration", "integrations"),
            Self::RolePolicy => ("millrace.dev", "v1alpha1", "RolePolicy", "rolepolicies"),
            Self::Revision => ("millrace.dev", "v1alpha1", "Revision", "revisions"),
            Self::Secret => ("", "v1", "Secret", "secrets"),
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Role => (RBAC, "v1", "Role", "roles"),
            Self::RoleBinding => (RBAC, "v1", "RoleBinding", "rolebindings"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::StatefulSet => ("apps", "v1", "StatefulSet", "statefulsets"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::HorizontalPodAutoscaler => {
                ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            }
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
            Self::Ingress => ("networking.k8s.io", "v1", "Ingress", "ingresses"),
            Self::HttpRoute => ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
            Self::Pod => ("", "v1", "Pod", "pods"),
            Self::Namespace => ("", "v1", "Namespace", "namespaces"),
        }
    }
}
