//! Reconciling: what is stored is compared with what Stripe has, and repaired. Whatever webhook was lost, this finds what it would have told.
//!
//! Two phases. *Read*: every page of Stripe's subscriptions is compared while the next one is fetched (`walk`, `compare`), what is not over here
//! and did not come is asked for by name (`absence`), and every user's row is compared with what the stored facts say (`users`). Each
//! difference is one row, written a few hundred at a time (`ledger`). *Repair*: what the rows hold of Stripe is taken in like an event, batch by
//! batch (`repair`), so that whatever is newer wins by the same order as ever.
//!
//! Memory is bounded whatever the number: two pages, a buffer of drifts, and eight bytes for each subscription that came.
//!
//! - [`Reconciler::begin`], [`Begun::run`]: one run, never two at once
//! - [`records`]: the runs that were, and what they found
//! - [`Report`], [`Drift`]: what a run has to tell

mod absence;
mod account;
mod compare;
mod ledger;
mod observed;
mod overrides;
mod owners;
pub mod records;
mod repair;
mod report;
mod users;
mod walk;

use std::{sync::Arc, time::Duration};

use entity::{
    Time,
    enums::{ReconcileMode, ReconcileOutcome, Requester},
    ids::UserId,
};
use sea_orm::DbErr;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) use self::account::{account_of_key, remembered as remembered_account};
pub use self::{
    compare::Difference,
    records::UnderWay,
    report::{Absence, AccessEffect, Drift, Report},
};
use self::{ledger::Ledger, walk::Walked};
use crate::{
    adoption,
    catalog::Catalog,
    db::Db,
    policy::Policy,
    progress::Progress,
    stripe::{Stripe, StripeError},
};

/// Calls that one run makes about single objects, beside the pages: what did not come in the walk; customers and checkouts of what is nobody's.
/// Twenty-five seconds at the usual rate.
const LOOK_UPS: usize = 500;

/// How often a run says that it is alive.
const BEAT: Duration = Duration::from_secs(15);

/// What a reconciliation is made of.
#[derive(Debug, Clone)]
pub struct Reconciler {
    /// The database.
    pub db: Db,
    /// Stripe's API.
    pub stripe: Arc<dyn Stripe>,
    /// The plans.
    pub catalog: Arc<Catalog>,
    /// The operator's switches.
    pub policy: Arc<Policy>,
    /// The mode we serve; none takes whatever the key shows.
    pub livemode: Option<bool>,
}

/// What is asked of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether to repair.
    pub mode: ReconcileMode,
    /// Only this user's subscriptions.
    pub user: Option<UserId>,
    /// Repair even where many would lose access.
    pub force: bool,
    /// The key may be of another account than last time.
    pub accept_account: bool,
    /// Who asks.
    pub requested_by: Requester,
}

impl Options {
    /// A run about everybody, with every safety.
    pub fn new(mode: ReconcileMode, requested_by: Requester) -> Self {
        Self { mode, user: None, force: false, accept_account: false, requested_by }
    }
}

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// One is under way.
    #[error(
        "the reconciliation {} is under way since {} (asked for by {}); wait for its end, there are never two at once",
        .0.id, compare::moment(.0.started_at), .0.requested_by
    )]
    Busy(UnderWay),
    /// There is no such user.
    #[error("there is no user {0}")]
    UnknownUser(UserId),
    /// The database.
    #[error("the reconciliation could not begin: {0}")]
    Database(#[from] DbErr),
}

/// The database broke off a run. What it found until then is in its report, and whatever it repaired stays repaired.
#[derive(Debug, thiserror::Error)]
#[error("the reconciliation broke off: {source}; the next one begins anew")]
pub struct Broken {
    /// What the database says.
    pub source: DbErr,
    /// What was done and found.
    pub report: Box<Report>,
}

/// A run that has its row, and has not done anything yet.
#[derive(Debug)]
#[must_use = "a run that is begun keeps others from beginning until it has run"]
pub struct Begun {
    reconciler: Reconciler,
    options: Options,
    id: Uuid,
}

/// How a run ended, but for the database's breaking it off.
enum End {
    /// All that was to be seen and done was.
    Whole,
    /// Something could not be seen.
    Partial(String),
    /// It could have gone on, and did not.
    Refused(String),
    /// It was told to stop.
    Stopped,
    /// It was taken for dead.
    Lost,
}

impl From<StripeError> for End {
    fn from(error: StripeError) -> Self {
        Self::Partial(error.to_string())
    }
}

impl Reconciler {
    /// Begins a run: writes its row, which keeps every other from beginning, on whatever replica.
    pub async fn begin(&self, options: Options) -> Result<Begun, BeginError> {
        if let Some(user) = options.user
            && !users::exists(&self.db, user).await?
        {
            return Err(BeginError::UnknownUser(user));
        }
        let row = records::NewRun { mode: options.mode, requested_by: options.requested_by, user: options.user };
        match records::begin(&self.db, row).await? {
            Ok(id) => Ok(Begun { reconciler: self.clone(), options, id }),
            Err(busy) => Err(BeginError::Busy(busy)),
        }
    }
}

impl Begun {
    /// Its row.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Runs to its end, or until `stop` is cancelled. Whatever comes of it, short of the database's going away, is in the report and in its row:
    /// a run that failed or was refused is no error here.
    pub async fn run(self, progress: &Progress, stop: &CancellationToken) -> Result<Report, Broken> {
        let Self { reconciler, options, id } = self;
        let ledger = Ledger::new(Report::new(id, options.mode, options.user));
        let run = Run { reconciler: &reconciler, options, ledger: &ledger, progress };
        let ended = {
            // On the heap: it is many kilobytes of state. Dropped where it is cut off, and with it whatever transaction is open.
            let work = Box::pin(run.work());
            tokio::select! {
                biased;
                ended = work => ended,
                () = stop.cancelled() => Ok(End::Stopped),
                lost = run.heart() => lost,
            }
        };
        let flushed = match ended {
            Ok(End::Lost) | Err(_) => Ok(()),
            Ok(_) => ledger.flush(&reconciler.db).await,
        };
        let ended = flushed.and(ended);
        let (outcome, error) = match &ended {
            Ok(End::Whole) => (ReconcileOutcome::Succeeded, None),
            Ok(End::Partial(why)) => (ReconcileOutcome::Failed, Some(why.clone())),
            Ok(End::Refused(why)) => (ReconcileOutcome::Refused, Some(why.clone())),
            Ok(End::Stopped) => (ReconcileOutcome::Interrupted, Some("it was stopped before its end".to_owned())),
            Ok(End::Lost) => (ReconcileOutcome::Interrupted, Some("it was taken for dead".to_owned())),
            Err(error) => (ReconcileOutcome::Failed, Some(error.to_string())),
        };
        ledger.report(|report| {
            report.outcome = outcome;
            report.error = error;
        });
        let report = ledger.told();
        // Where the database is away the row stays as it is, and is taken for dead soon.
        let finished = records::finish(&reconciler.db, &report).await;
        match ended.and(finished) {
            Ok(()) => Ok(report),
            Err(source) => Err(Broken { source, report: Box::new(report) }),
        }
    }
}

/// A run at work.
#[derive(Clone, Copy)]
struct Run<'r> {
    reconciler: &'r Reconciler,
    options: Options,
    ledger: &'r Ledger,
    progress: &'r Progress,
}

impl Run<'_> {
    async fn work(&self) -> Result<End, DbErr> {
        if !self.is_dry() && adoption::awaits_release(self.reconciler.db.reader()).await? {
            return Ok(End::Refused(adoption::WAITS.to_owned()));
        }
        let whose = match account::check(self).await? {
            Ok(whose) => whose,
            Err(end) => return Ok(end),
        };
        // The users are looked at while the walk waits for Stripe.
        let (walked, looked) = tokio::join!(self.walk(), self.look_at_users());
        let Walked { seen, first_at } = match walked? {
            Ok(walked) => walked,
            Err(end) => {
                looked?;
                return Ok(end);
            }
        };
        looked?;
        let unanswered = self.ask_for_absent(seen, first_at).await?;
        self.ledger.flush(&self.reconciler.db).await?;
        if let Some(end) = self.foresee().await? {
            return Ok(end);
        }
        if self.options.mode == ReconcileMode::Apply {
            self.repair().await?;
        }
        if let Some(error) = unanswered {
            return Ok(error.into());
        }
        if self.options.mode == ReconcileMode::Apply {
            account::remember(&self.reconciler.db, whose).await?;
        }
        Ok(End::Whole)
    }

    /// Says every few seconds that the run is alive; ends where it is not any more.
    async fn heart(&self) -> Result<End, DbErr> {
        loop {
            sleep(BEAT).await;
            match records::beat(&self.reconciler.db, self.ledger.reconciliation(), self.progress.done()).await {
                Ok(true) => {}
                Ok(false) => return Ok(End::Lost),
                Err(error) if crate::db::is_lease_lost(&error) => return Err(error),
                // If the database is really away, the work itself finds out.
                Err(error) => tracing::warn!(%error, "a reconciliation could not say that it is alive"),
            }
        }
    }

    fn is_dry(&self) -> bool {
        self.options.mode == ReconcileMode::DryRun
    }

    fn is_ours(&self, livemode: bool) -> bool {
        self.reconciler.livemode.is_none_or(|ours| ours == livemode)
    }
}

/// The database's clock, outside of any transaction.
async fn now(db: &Db) -> Result<Time, DbErr> {
    crate::store::inbox::clock(db.reader()).await
}
