//! A call to recount in, what was found out. See [`crate::ledger::audit`].

use super::dead_letters::{ControlState, find_app};
use super::protocol::{Audit, AuditDifference, AuditReport, AuditedEvent, LetterId, Refusal, RefusalCode};
use crate::ledger::audit::{self, Audited, Explained, MINUTES_MAX, Sources};
use crate::ledger::balance::{Closing, Verdict};
use crate::ledger::book::start_of;
use crate::query::ledger::Span;
use crate::telemetry;

impl ControlState {
    /// Recounts what became of the events accepted in some minutes.
    pub async fn audit(&self, call: Audit) -> Result<AuditReport, Refusal> {
        let app = find_app(&self.config, &call.app)?;
        let span = Span { from: call.from, to: call.to };
        if !(1..=MINUTES_MAX).contains(&call.to.saturating_sub(call.from)) {
            let message = format!("an audit is of 1 to {MINUTES_MAX} minutes; ask in several");
            return Err(Refusal { code: RefusalCode::InvalidRequest, message });
        }
        let sources = Sources { app: &app, log: self.log.as_ref(), store: &self.store };
        match audit::audit(&sources, span).await {
            Ok(audited) => Ok(report(&audited)),
            Err(error) => Err(Refusal { code: RefusalCode::Failed, message: telemetry::chain(&error) }),
        }
    }
}

fn report(audited: &Audited) -> AuditReport {
    let mut report = AuditReport {
        minutes: audited.minutes.len() as u64,
        raw_recounted: audited.recounted.is_some(),
        events: audited.events.iter().map(event).collect(),
        events_total: audited.events_total as u64,
        ..AuditReport::default()
    };
    for (minute, counted) in &audited.minutes {
        report.acknowledged +=
            counted.instances.values().map(|instance| instance.acknowledged.count).sum::<i64>();
        report.stored += counted.stored.count;
        report.unclosed += u64::from(counted.instances.values().any(|instance| !instance.closed));
        report.unverified += u64::from(counted.verdict(Closing::Over) == Verdict::Unverified);
        let differences = audited.differences(*minute).into_iter();
        report.differences.extend(differences.map(|(instance, equation, missing)| AuditDifference {
            minute: start_of(*minute),
            instance,
            equation,
            missing: missing.count,
            hashes: missing.hashes,
        }));
    }
    report
}

fn event(explained: &Explained) -> AuditedEvent {
    AuditedEvent {
        event_id: explained.event_id,
        minute: start_of(explained.minute),
        raw: explained.raw.map(|(partition, offset)| LetterId { partition, offset }),
        what: explained.what.code().to_owned(),
        detail: explained.what.text(),
    }
}
