//! As whom a process takes part in the log: installation and own name in, names of groups and transactors out. Pure.

use std::sync::Arc;

use millrace_crds::names::{self, AppId};

/// A process among those that share the work on the same Apps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    prefix: Arc<str>,
    name: Arc<str>,
}

impl Member {
    /// The member `name` of the installation `prefix`. No two living processes may have the same name: the later one
    /// fences the earlier.
    pub fn new(prefix: &str, name: &str) -> Self {
        Self { prefix: prefix.into(), name: name.into() }
    }

    /// The only process there is.
    pub fn only() -> Self {
        Self::new(names::PREFIX_DEFAULT, "0")
    }

    /// The group of one stage of one App. Each App has its own, whichever data plane serves it: Apps never wait for each
    /// other's rebalances, and an App that moves to another data plane finds its positions where they are, while the
    /// group sees to it that no partition has two owners meanwhile.
    pub fn group(&self, app: &AppId, stage: &str) -> String {
        names::consumer_group(&self.prefix, app.namespace(), app.name(), stage)
    }

    /// The id of this member's transactor in that group.
    pub fn transactor(&self, app: &AppId, stage: &str) -> String {
        format!("{}.{}", self.group(app, stage), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_share_groups_and_never_transactors() {
        let app = AppId::new("team", "shop").unwrap();
        let (one, two) =
            (Member::new("acme", "mr-shared-worker-0"), Member::new("acme", "mr-shared-worker-1"));
        assert_eq!(one.group(&app, "process"), "acme.team.shop.process");
        assert_eq!(one.group(&app, "process"), two.group(&app, "process"));
        assert_eq!(one.transactor(&app, "process"), "acme.team.shop.process.mr-shared-worker-0");
        assert_ne!(one.transactor(&app, "process"), two.transactor(&app, "process"));
    }

    #[test]
    fn installations_share_nothing() {
        let app = AppId::new("team", "shop").unwrap();
        assert_ne!(Member::new("a", "0").group(&app, "load"), Member::new("b", "0").group(&app, "load"));
    }
}
