//! What came of it.

use serde::Serialize;

use crate::{compare::Difference, dry_run::DryRun, host::JobRun};

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Events that happened.
    pub events: u64,
    /// Of these told under a second id as well.
    pub twins: u64,
    /// Events that never arrived.
    pub dropped: u64,
    /// Sent once more.
    pub sent_twice: u64,
    /// Overtaken by later ones.
    pub reordered: u64,
    /// Hours or days late.
    pub delayed: u64,
    /// Attempts.
    pub attempts: u64,
    /// Attempts that were not answered 2xx.
    pub attempts_failed: u64,
    /// Given up in the end.
    pub gave_up: u64,
    /// Sent by somebody without the secret.
    pub forged: u64,
    /// Of these answered 2xx; none may be.
    pub forged_taken: u64,
    /// Answered 2xx.
    pub delivered: u64,
    /// Of these stored by the server as new.
    pub recorded: u64,
    /// Of these known to the server already.
    pub duplicates: u64,
    /// In the server's inbox: applied.
    pub applied: u64,
    /// In the server's inbox: not for it to apply.
    pub skipped: u64,
    /// In the server's inbox: waiting, for example for a user who never comes.
    pub pending: u64,
    /// In the server's inbox: failed for good.
    pub failed: u64,
    /// Users compared.
    pub users: u64,
    /// Subscriptions compared; none where the server does not list them.
    pub subscriptions: Option<u64>,
    /// Subscriptions that the server marks as told ambiguously, after webhooks alone.
    pub needs_refresh: Vec<String>,
    /// Subscriptions of which webhooks do leave open how they are, by the events themselves.
    pub ambiguous: Vec<String>,
    /// Whose they are.
    pub ambiguous_users: Vec<String>,
    /// Differences after webhooks alone.
    pub differences_after_webhooks: u64,
    /// The recovery of missed events, where it was asked for; none: the server has no such job.
    pub recovery: Option<JobRun>,
    /// Stored by recovery.
    pub recovered: Option<u64>,
    /// Differences after recovery.
    pub differences_after_recovery: Option<u64>,
    /// What a reconciliation that only looks had to tell then, where one was asked for.
    pub dry_run: Option<DryRun>,
    /// The reconciliation, where it was asked for; none: the server has no such job.
    pub reconciliation: Option<JobRun>,
    /// Repaired by reconciliation.
    pub repaired: Option<u64>,
    /// What is left.
    pub differences: Vec<Difference>,
    /// Slowest acknowledgement, in milliseconds.
    pub slowest_ack_ms: u64,
    /// Days of virtual time.
    pub virtual_days: i64,
    /// The run up to the last delivery, in milliseconds.
    pub run_ms: u64,
    /// From the last delivery until nothing differed, in milliseconds; none where something is left.
    pub converged_after_ms: Option<u64>,
}

/// What came of a record that was sent again.
#[derive(Debug, Clone, Serialize)]
pub struct Replayed {
    /// Deliveries sent.
    pub deliveries: u64,
    /// Not answered 2xx.
    pub refused: u64,
    /// Users made.
    pub users: u64,
    /// What is not as it should be.
    pub differences: Vec<Difference>,
}
