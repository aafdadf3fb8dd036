//! What a reconciliation has to tell.

use std::collections::BTreeMap;

use entity::{
    enums::{DriftKind, ReconcileMode, ReconcileOutcome},
    ids::UserId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::compare::Difference;

/// Drifts that a report quotes; all of them are in the database.
pub(super) const QUOTED: usize = 10;

/// One thing in which Stripe and what is stored here differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Ours; time-ordered.
    pub id: Uuid,
    /// What kind of difference.
    pub kind: DriftKind,
    /// Whose it is, where that is known.
    pub user_id: Option<UserId>,
    /// The subscription, where it is about one.
    pub subscription_id: Option<String>,
    /// What differs, with both sides.
    pub differences: Vec<Difference>,
    /// How it is here.
    pub local: Option<Value>,
    /// How it is at Stripe, or by what is stored of Stripe.
    pub stripe: Option<Value>,
    /// True once it is gone.
    pub repaired: bool,
}

/// Subscriptions that are not over here and did not come in the walk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// How many.
    pub candidates: u64,
    /// Of these, fetched one by one and found.
    pub found: u64,
    /// Of these, unknown to Stripe. Nothing is concluded from that.
    pub unknown: u64,
    /// Of these, not asked about: there are more than one run asks, or Stripe did not answer. The next run goes on there.
    pub unchecked: u64,
}

/// What repairing does, or would do, to access.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEffect {
    /// Users with paid access before.
    pub paid: u64,
    /// Users who gain it.
    pub gain: u64,
    /// Users who lose it.
    pub lose: u64,
}

impl AccessEffect {
    /// More users than this have to lose access before a run is refused, however few pay.
    pub const LOSE_AT_LEAST: u64 = 20;

    /// True where more than a tenth of those with paid access, and more than 20, would lose it.
    pub fn is_alarming(self) -> bool {
        self.lose > Self::LOSE_AT_LEAST && self.lose * 10 > self.paid
    }
}

/// What a reconciliation did and found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its row.
    pub reconciliation: Uuid,
    /// Whether it was to repair.
    pub mode: ReconcileMode,
    /// How it came out.
    pub outcome: ReconcileOutcome,
    /// The one user it was about; none where it was about all.
    pub user_id: Option<UserId>,
    /// The account of the key; none where the key may not tell.
    pub account: Option<String>,
    /// True where every page came.
    pub complete: bool,
    /// Pages that came.
    pub pages: u64,
    /// Subscriptions of Stripe that were looked at.
    pub scanned: u64,
    /// Of these, of the other mode: ignored.
    pub other_mode: u64,
    /// Of these, not readable: ignored.
    pub unreadable: u64,
    /// Of these, with something newer stored here: a webhook came meanwhile.
    pub newer_here: u64,
    /// Users whose row was compared with what follows from the facts.
    pub users: u64,
    /// Differences.
    pub drifted: u64,
    /// Differences by kind; every kind is there.
    pub by_kind: BTreeMap<DriftKind, u64>,
    /// Differences that are gone.
    pub repaired: u64,
    /// Differences of users under an operator's override: reported and left alone.
    pub overridden: u64,
    /// Differences that the database would not let be repaired.
    pub unrepairable: u64,
    /// What did not come in the walk.
    pub absence: Absence,
    /// What repairing does, or would do, to access.
    pub access: AccessEffect,
    /// The first drifts.
    pub first: Vec<Drift>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Why it did not succeed.
    pub error: Option<String>,
}

impl Report {
    pub(super) fn new(reconciliation: Uuid, mode: ReconcileMode, user_id: Option<UserId>) -> Self {
        Self {
            reconciliation,
            mode,
            outcome: ReconcileOutcome::Running,
            user_id,
            account: None,
            complete: false,
            pages: 0,
            scanned: 0,
            other_mode: 0,
            unreadable: 0,
            newer_here: 0,
            users: 0,
            drifted: 0,
            by_kind: DriftKind::ALL.iter().map(|kind| (*kind, 0)).collect(),
            repaired: 0,
            overridden: 0,
            unrepairable: 0,
            absence: Absence::default(),
            access: AccessEffect::default(),
            first: Vec::new(),
            notes: Vec::new(),
            error: None,
        }
    }

    pub(super) fn note(&mut self, drift: &Drift) {
        self.drifted += 1;
        *self.by_kind.entry(drift.kind).or_default() += 1;
        if self.first.len() < QUOTED {
            self.first.push(drift.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_more_than_twenty_and_more_than_a_tenth_to_alarm() {
        let alarming = |lose, paid| AccessEffect { paid, gain: 0, lose }.is_alarming();
        assert!(!alarming(20, 20), "few users: a run must be able to end what has ended");
        assert!(alarming(21, 209));
        assert!(!alarming(21, 210), "exactly a tenth");
        assert!(alarming(1001, 10_000) && !alarming(1000, 10_000));
    }
}
