//! Calls to make rollups anew in, how far that is out. The reloader carries them out, because it is the one that changes
//! tables; here is only what both know.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use millrace_crds::names::AppId;

use super::dead_letters::{ControlState, find_app};
use super::protocol::{RebuildReport, RebuildRollups, RebuildStage, Refusal};

/// Rebuilds that were asked for since the process started, by App.
#[derive(Debug, Default)]
pub struct Rebuilds {
    reports: Mutex<BTreeMap<AppId, RebuildReport>>,
}

impl Rebuilds {
    /// Apps whose rollups are to be made anew.
    pub fn asked(&self) -> Vec<AppId> {
        let is_running = |report: &RebuildReport| report.stage == RebuildStage::Running;
        self.with(|reports| {
            let running = reports.iter().filter(|(_, report)| is_running(report));
            running.map(|(app, _)| app.clone()).collect()
        })
    }

    /// Says how far one is.
    pub fn tell(&self, app: &AppId, report: RebuildReport) {
        self.with(|reports| reports.insert(app.clone(), report));
    }

    /// Takes a call: one that is underway is joined.
    fn take(&self, app: &AppId, begin: bool) -> RebuildReport {
        self.with(|reports| {
            let report = reports.entry(app.clone()).or_default();
            if begin && report.stage != RebuildStage::Running {
                *report = RebuildReport { stage: RebuildStage::Running, ..RebuildReport::default() };
            }
            report.clone()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<AppId, RebuildReport>) -> T) -> T {
        // A report is written whole, so one of a panicked thread is as good as any.
        act(&mut self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ControlState {
    /// Begins to make an App's rollups anew, or says how far that is.
    pub fn rebuild_rollups(&self, call: &RebuildRollups) -> Result<RebuildReport, Refusal> {
        let app = find_app(&self.config, &call.app)?;
        Ok(self.rebuilds.take(&app.config.app, call.begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_underway_is_joined_and_one_that_ended_begins_again() {
        let rebuilds = Rebuilds::default();
        let app = AppId::new("default", "shop").unwrap();
        assert_eq!(rebuilds.take(&app, false).stage, RebuildStage::Idle);
        assert_eq!(rebuilds.asked(), []);
        assert_eq!(rebuilds.take(&app, true).stage, RebuildStage::Running);
        let halfway =
            RebuildReport { stage: RebuildStage::Running, done: 3, of: 9, ..RebuildReport::default() };
        rebuilds.tell(&app, halfway.clone());
        assert_eq!(rebuilds.take(&app, true), halfway);
        assert_eq!(rebuilds.asked(), std::slice::from_ref(&app));
        for stage in [RebuildStage::Done, RebuildStage::Failed] {
            rebuilds.tell(&app, RebuildReport { stage, ..halfway.clone() });
            assert_eq!(rebuilds.asked(), []);
            assert_eq!(rebuilds.take(&app, false).stage, stage, "it stays to be seen");
            assert_eq!(rebuilds.take(&app, true).done, 0);
        }
    }
}
