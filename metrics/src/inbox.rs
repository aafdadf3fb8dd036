//! The inbox: what comes in, what waits, what is stored together.

use prometheus::{GaugeVec, Histogram, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::{
    Metrics,
    families::{BATCH_EVENTS, WAITS, counters, histogram, registered},
    labels::{InboxStatus, ScrapePart, SkipReason},
    measured::{Parts, shared},
};

/// The depth of the inbox, as it was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct InboxDepth {
    /// Due, or waiting for their next attempt; the parked ones not counted.
    pub pending: i64,
    /// Under a lease.
    pub processing: i64,
    /// Given up.
    pub failed: i64,
    /// Waiting for a user.
    pub parked: i64,
    /// Age of the oldest pending event, in seconds; 0 where there is none.
    pub oldest_pending_seconds: f64,
    /// Age of the oldest event under a lease, in seconds; 0 where there is none.
    pub oldest_processing_seconds: f64,
    /// E-mails that wait.
    pub emails: i64,
}

#[derive(Debug)]
pub(crate) struct InboxFamilies {
    events: IntGaugeVec,
    oldest_seconds: GaugeVec,
    emails_pending: IntGauge,
    waiting: IntGauge,
    commit_seconds: Histogram,
    commit_events: Histogram,
    skipped: IntCounterVec,
}

impl InboxFamilies {
    pub(crate) fn register(r: &Registry, parts: &Parts) -> Self {
        let families = Self {
            events: parts.inbox.gauge(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "trueup_inbox_events",
                        shared!("Events in the inbox that are not done, by where they stand."),
                    ),
                    &["status"],
                ),
            ),
            oldest_seconds: parts.inbox.gauge(
                r,
                GaugeVec::new(
                    Opts::new(
                        "trueup_inbox_oldest_age_seconds",
                        shared!("Age of the oldest event of the inbox in this state; 0 where there is none."),
                    ),
                    &["status"],
                ),
            ),
            emails_pending: parts.inbox.gauge(
                r,
                IntGauge::new("trueup_emails_pending", shared!("E-mails that wait to be sent, or for their next try.")),
            ),
            waiting: registered(
                r,
                IntGauge::new(
                    "trueup_inbox_waiting_deliveries",
                    "Deliveries that wait in memory for their commit; bounded, and 503 beyond.",
                ),
            ),
            commit_seconds: histogram(
                r,
                "trueup_inbox_commit_duration_seconds",
                "Time of one commit that stores the deliveries that waited together, whether it succeeded or not.",
                WAITS,
            ),
            commit_events: histogram(
                r,
                "trueup_inbox_commit_events",
                "Events that one commit stored together.",
                BATCH_EVENTS,
            ),
            skipped: counters(
                r,
                "trueup_events_skipped_total",
                "Events that were stored and are not applied, by reason: of the other mode, of another Connect account, of a type that changes nothing here, thin without an API key to fetch the object with, without what it takes to read them.",
                &["reason"],
            ),
        };
        for reason in SkipReason::ALL {
            let _ = families.skipped.with_label_values(&[reason.as_str()]);
        }
        families.set(&InboxDepth::default());
        families
    }

    fn set(&self, depth: &InboxDepth) {
        for (status, events) in [
            (InboxStatus::Pending, depth.pending),
            (InboxStatus::Processing, depth.processing),
            (InboxStatus::Failed, depth.failed),
            (InboxStatus::Parked, depth.parked),
        ] {
            self.events.with_label_values(&[status.as_str()]).set(events);
        }
        for (status, seconds) in [
            (InboxStatus::Pending, depth.oldest_pending_seconds),
            (InboxStatus::Processing, depth.oldest_processing_seconds),
        ] {
            self.oldest_seconds.with_label_values(&[status.as_str()]).set(seconds);
        }
        self.emails_pending.set(depth.emails);
    }
}

impl Metrics {
    /// The inbox was measured.
    pub fn inbox_measured(&self, depth: &InboxDepth) {
        self.inbox.set(depth);
        self.parts.set(ScrapePart::Inbox, true);
    }

    /// So many deliveries wait for their commit.
    pub fn deliveries_waiting(&self, deliveries: usize) {
        self.inbox.waiting.set(i64::try_from(deliveries).unwrap_or(i64::MAX));
    }

    /// A commit of so many events came to its end; `stored` is false where the database did not take them.
    pub fn inbox_committed(&self, events: usize, seconds: f64, stored: bool) {
        self.inbox.commit_seconds.observe(seconds);
        if stored {
            self.inbox.commit_events.observe(u32::try_from(events).map_or(f64::INFINITY, f64::from));
        }
    }

    /// So many events are not applied, for this reason.
    pub fn events_skipped(&self, reason: SkipReason, events: usize) {
        self.inbox.skipped.with_label_values(&[reason.as_str()]).inc_by(events as u64);
    }
}
