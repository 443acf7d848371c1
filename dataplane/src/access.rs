//! Compiled access rules and a principal in, a decision out; denied unless a binding says otherwise.
//! Pure. The only place that makes a [`Grant`]; whatever needs authority takes one.

use millrace_crds::config::{AccessConfig, Binding, Matches, Permission, Subject};
use millrace_crds::names::AppId;
use serde_json::{Map, Value};

#[cfg(test)]
mod tests;

/// The issuer of Millrace's own accounts; known without being declared.
pub const ISSUER_LOCAL: &str = "local";

/// Who asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Principal {
    /// Holder of the bootstrap admin token: may do everything, on every App.
    BootstrapAdmin,
    /// Someone an issuer vouches for; has what bindings give.
    Subject(Identity),
}

/// What an issuer says about a subject. Everything in it has been verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Name of the issuer in the access rules, not its `iss` value.
    pub issuer: String,
    /// The `sub` claim.
    pub subject: String,
    /// The e-mail address, only if the issuer verified it.
    pub verified_email: Option<String>,
    /// All claims, by their names in the token.
    pub claims: Map<String, Value>,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and the proof of it.
    Allow(Grant),
    /// No.
    Deny,
}

impl Decision {
    /// The proof, if there is one.
    pub fn grant(self) -> Option<Grant> {
        match self {
            Self::Allow(grant) => Some(grant),
            Self::Deny => None,
        }
    }
}

/// Proof that one permission was given on one App.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    app: AppId,
    permission: Permission,
}

impl Grant {
    /// The App it is for.
    pub fn app(&self) -> &AppId {
        &self.app
    }

    /// What it allows there.
    pub fn permission(&self) -> Permission {
        self.permission
    }
}

/// Whether `principal` has `permission` on `app` by the rules of the App's namespace (`None`: it has none).
pub fn decide(
    rules: Option<&AccessConfig>,
    principal: &Principal,
    permission: Permission,
    app: &AppId,
) -> Decision {
    let allowed = match principal {
        Principal::BootstrapAdmin => true,
        Principal::Subject(identity) => rules.is_some_and(|rules| {
            rules.namespace == app.namespace()
                && given(rules, identity, permission).any(|binding| binding.apps.contains(app))
        }),
    };
    if allowed { Decision::Allow(Grant { app: app.clone(), permission }) } else { Decision::Deny }
}

/// Whether the rules give `principal` the permission at all, on whatever Apps, be they none.
///
/// The first door of a request, before an App is named. It opens nothing by itself: only a [`Grant`] does.
pub fn holds(rules: &AccessConfig, principal: &Principal, permission: Permission) -> bool {
    match principal {
        Principal::BootstrapAdmin => true,
        Principal::Subject(identity) => given(rules, identity, permission).next().is_some(),
    }
}

/// The bindings that give the permission to this identity.
fn given<'a>(
    rules: &'a AccessConfig,
    identity: &'a Identity,
    permission: Permission,
) -> impl Iterator<Item = &'a Binding> {
    let known_issuer = identity.issuer == ISSUER_LOCAL || rules.issuers.contains_key(&identity.issuer);
    rules
        .bindings
        .iter()
        .filter(move |_| known_issuer)
        .filter(move |binding| {
            rules.roles.get(&binding.role).is_some_and(|permissions| permissions.contains(&permission))
        })
        .filter(|binding| binding.subjects.iter().any(|subject| is_meant(rules, subject, identity)))
}

fn is_meant(rules: &AccessConfig, subject: &Subject, identity: &Identity) -> bool {
    if subject.issuer != identity.issuer {
        return false;
    }
    match &subject.matches {
        Matches::Subject(expected) => *expected == identity.subject,
        Matches::Email(expected) => {
            identity.verified_email.as_ref().is_some_and(|email| email.to_lowercase() == *expected)
        }
        Matches::Claim { claim, value } => {
            let name = rules.issuers.get(&subject.issuer).and_then(|issuer| issuer.claims.get(claim));
            claim_holds(identity.claims.get(name.unwrap_or(claim)), value)
        }
    }
}

/// Whether a claim is the value, or a list that contains it. Only text counts.
fn claim_holds(claim: Option<&Value>, value: &str) -> bool {
    match claim {
        Some(Value::String(text)) => text == value,
        Some(Value::Array(list)) => list.iter().any(|item| item.as_str() == Some(value)),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => false,
    }
}
