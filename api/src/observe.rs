//! What the domain's reports are to Prometheus.

use std::sync::Arc;

use billing::{
    endpoint::{self, FindingKind},
    reconcile, recovery,
    skip::SkipReason,
};
use entity::enums::{self, ReconcileOutcome};
use metrics::{
    Metrics, Reconciled,
    labels::{DriftKind, EndpointFinding},
};
use scheduler::Observers;

/// Tells metrics of everything that jobs report.
pub fn observers(metrics: &Arc<Metrics>) -> Observers {
    let (one, two, three) = (Arc::clone(metrics), Arc::clone(metrics), Arc::clone(metrics));
    Observers {
        reconciled: Arc::new(move |report| reconciled(&one, report)),
        recovered: Arc::new(move |report| recovered(&two, report)),
        endpoint_checked: Arc::new(move |report| endpoint_checked(&three, report)),
    }
}

/// Why events are not applied.
pub(crate) fn skip_label(reason: SkipReason) -> metrics::labels::SkipReason {
    use metrics::labels::SkipReason as Label;
    match reason {
        SkipReason::OtherMode => Label::OtherMode,
        SkipReason::ForeignAccount => Label::ForeignAccount,
        SkipReason::UnhandledType => Label::UnhandledType,
        SkipReason::NoKey => Label::NoKey,
        SkipReason::Incomplete => Label::Incomplete,
    }
}

fn recovered(metrics: &Metrics, report: &recovery::Report) {
    metrics.events_recovered(report.stored);
    for (reason, events) in &report.skipped_by {
        metrics.events_skipped(skip_label(*reason), usize::try_from(*events).unwrap_or(usize::MAX));
    }
}

/// A reconciliation has ended, however it did.
pub fn reconciled(metrics: &Metrics, report: &reconcile::Report) {
    let label = |kind: enums::DriftKind| match kind {
        enums::DriftKind::Missing => DriftKind::Missing,
        enums::DriftKind::Differs => DriftKind::Differs,
        enums::DriftKind::Ahead => DriftKind::Ahead,
        enums::DriftKind::UnknownUser => DriftKind::UnknownUser,
        enums::DriftKind::UnmappedPrice => DriftKind::UnmappedPrice,
        enums::DriftKind::Absent => DriftKind::Absent,
        enums::DriftKind::Projection => DriftKind::Projection,
        enums::DriftKind::Unconfirmed => DriftKind::Unconfirmed,
    };
    metrics.reconciled(&Reconciled {
        scanned: report.scanned,
        drift: report.by_kind.iter().map(|(kind, count)| (label(*kind), *count)).collect(),
        repaired: report.repaired,
        refused: report.outcome == ReconcileOutcome::Refused,
    });
}

fn endpoint_checked(metrics: &Metrics, report: &endpoint::Report) {
    let label = |kind: FindingKind| match kind {
        FindingKind::Missing => EndpointFinding::Missing,
        FindingKind::Disabled => EndpointFinding::Disabled,
        FindingKind::EssentialEvents => EndpointFinding::EssentialEvents,
        FindingKind::SomeEvents => EndpointFinding::SomeEvents,
        FindingKind::Mode => EndpointFinding::Mode,
        FindingKind::ApiVersion => EndpointFinding::ApiVersion,
        FindingKind::InvoiceCreated => EndpointFinding::InvoiceCreated,
        FindingKind::Duplicate => EndpointFinding::Duplicate,
    };
    let at = chrono::Utc::now().timestamp();
    metrics.endpoint_looked_at(at, report.healthy, report.findings.iter().map(|finding| label(finding.kind)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_a_label_of_the_same_name() {
        let ours: Vec<&str> = FindingKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let labels: Vec<&str> = EndpointFinding::ALL.iter().map(|label| label.as_str()).collect();
        assert_eq!(ours, labels);
    }
}
