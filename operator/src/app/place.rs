//! Where an App's Revisions are and where its spec wants it in, where they go now out. Pure.
//!
//! An App that moves to another data plane is first taken from the old one: its Revisions belong to no data plane until the
//! pods there say that they let go, or a minute has passed. So events of one App are never processed in two places, however
//! far the rebalance of its groups has come. The groups themselves are the App's, and its positions need no copying.

use jiff::Timestamp;
use millrace_crds::labels::{DATA_PLANE, MOVING_FROM_ANNOTATION, MOVING_SINCE_ANNOTATION};

use super::deletion::WITHDRAWN_MAX;
use super::gather::{PodSeen, Published};
use super::objects::Meta as _;

/// Where the Revisions of an App belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// To this data plane.
    At(String),
    /// To none yet: the old one is to let go first.
    Leaving {
        /// The old data plane.
        from: String,
        /// When it was told.
        since: Timestamp,
    },
}

impl Place {
    /// Where the newest Revision says that they are; `None` where it says nothing that is understood.
    pub(crate) fn of(newest: &Published) -> Option<Self> {
        if let Some(plane) = newest.object.label(DATA_PLANE) {
            return Some(Self::At(plane.to_owned()));
        }
        let from = newest.object.annotation(MOVING_FROM_ANNOTATION)?.to_owned();
        let since = newest.object.annotation(MOVING_SINCE_ANNOTATION)?.parse().ok()?;
        Some(Self::Leaving { from, since })
    }

    /// The data plane that is to let go, seen from one that is wanted.
    pub(crate) fn to_leave<'a>(&'a self, wanted: &str) -> Option<&'a str> {
        match self {
            Self::At(plane) | Self::Leaving { from: plane, .. } => {
                Some(plane.as_str()).filter(|plane| *plane != wanted)
            }
        }
    }

    /// Where they go now. `left` are the pods of the data plane [`Place::to_leave`].
    pub(crate) fn next(
        now_at: Option<Self>,
        wanted: &str,
        app: &str,
        left: &[PodSeen],
        now: Timestamp,
    ) -> Self {
        let wanted_place = Self::At(wanted.to_owned());
        match now_at {
            None => wanted_place,
            Some(place) if place.to_leave(wanted).is_none() => wanted_place,
            Some(Self::At(from)) => Self::Leaving { from, since: now },
            Some(Self::Leaving { from, since }) => {
                let is_left = holding(app, left).is_none() || now.duration_since(since) >= WITHDRAWN_MAX;
                if is_left { wanted_place } else { Self::Leaving { from, since } }
            }
        }
    }
}

/// A pod that still runs the App, or does not say.
pub(crate) fn holding<'a>(app: &str, pods: &'a [PodSeen]) -> Option<&'a str> {
    let holds = |pod: &&PodSeen| match &pod.said {
        Some(Ok(said)) => said.scopes.get(app).is_some_and(|scope| scope.running.is_some()),
        Some(Err(_)) | None => true,
    };
    pods.iter().find(holds).map(|pod| pod.name.as_str())
}
