//! What Stripe does by itself, and when.

use std::collections::BTreeMap;

use super::Account;

/// Something Stripe does by itself. What has become pointless meanwhile is found out when it is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// A period, or a trial, of a subscription ends.
    Renew(String),
    /// A trial ends in three days.
    TrialWillEnd(String),
    /// A subscription is billed in three days.
    Upcoming(String),
    /// A subscription ends on a date.
    CancelAt(String),
    /// A first payment was not made in time.
    Expire(String),
    /// A draft becomes an invoice, and is charged.
    Finalize(String),
    /// An open invoice is charged again.
    Retry(String),
    /// A collection goes on.
    ResumeCollection(String),
    /// An open checkout is given up.
    ExpireSession(String),
    /// A delayed payment arrives, or not.
    SettleSession(String),
}

/// What is to be done, by time, then in the order in which it was put down.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    entries: BTreeMap<(i64, u64), Due>,
    count: u64,
}

impl Agenda {
    pub(crate) fn put(&mut self, at: i64, due: Due) {
        self.count += 1;
        self.entries.insert((at, self.count), due);
    }

    pub(crate) fn next(&self) -> Option<i64> {
        self.entries.keys().next().map(|(at, _)| *at)
    }

    pub(crate) fn take(&mut self, until: i64) -> Option<(i64, Due)> {
        let entry = self.entries.first_entry().filter(|entry| entry.key().0 <= until)?;
        let ((at, _), due) = entry.remove_entry();
        Some((at, due))
    }
}

impl Account {
    pub(super) fn put(&mut self, at: i64, due: Due) {
        self.agenda.put(at, due);
    }

    /// `at` is when it was due; the clock may be a few seconds later.
    pub(super) fn perform(&mut self, due: Due, at: i64) {
        match due {
            Due::Renew(id) => self.renew(&id, at),
            Due::TrialWillEnd(id) => self.trial_will_end(&id),
            Due::Upcoming(id) => self.upcoming(&id),
            Due::CancelAt(id) => self.end_by_date(&id, at),
            Due::Expire(id) => self.expire(&id),
            Due::Finalize(id) => self.finalize(&id),
            Due::Retry(id) => self.retry(&id, at),
            Due::ResumeCollection(id) => self.resume_collection(&id, at),
            Due::ExpireSession(id) => self.expire_session(&id),
            Due::SettleSession(id) => self.settle_session(&id),
        }
    }
}
