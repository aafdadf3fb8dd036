//! A whole run: the past in minutes, the deliveries with their faults, the comparison, the repairs, and the table of what came of it.

use std::{path::PathBuf, pin::Pin, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    calendar::{DAY, HOUR},
    compare::{Compared, Difference, compare},
    delivery::{Faults, Outbox},
    driver::{Driver, DriverOptions, Hold, Rotation, real_now},
    dry_run::{self, DryRun},
    host::{Host, HostError, Inbox, JobRun, Target},
    model::Metadata,
    record::{Entry, RecordError, Recorder},
    report::{Replayed, Report},
    rng::Rng,
    server::Stripe,
    signature,
};

/// Between two looks at the server's inbox.
const LOOK: Duration = Duration::from_millis(150);
/// Between two uses of what somebody has, in a living world.
const USES: Duration = Duration::from_millis(500);
/// So many equal looks, and the inbox is settled.
const SAME: u32 = 4;

/// How to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// As for the world.
    pub seed: u64,
    /// What befalls the deliveries.
    pub faults: Faults,
    /// Virtual seconds in a real one, at most; none: as fast as the server acknowledges.
    pub speed: Option<f64>,
    /// Deliveries at once.
    pub at_once: usize,
    /// How long the server may take to answer a delivery. Stripe does not publish its figure; others report up to 30 seconds.
    pub timeout: Duration,
    /// How long a delivery is tried before Stripe gives it up.
    pub give_up_after: Duration,
    /// How long to wait for the server to converge while nothing changes any more.
    pub patience: Duration,
    /// Whether recovery and reconciliation are asked for where webhooks did not suffice.
    pub repair: bool,
    /// Where the deliveries are written down.
    pub record: Option<PathBuf>,
}

/// Has the server fetch every event since this second from Stripe's Events API, and gives its report. The server's own job knows no past: its first
/// cursor is the moment at which it runs first, which in a simulated world is after everything.
pub type Recover = dyn Fn(i64) -> Pin<Box<dyn Future<Output = Result<Value, String>> + Send>> + Send + Sync;

/// Stripe keeps events for 30 days; as long as it takes to fetch them is left.
const RECALL: i64 = 30 * DAY - 2 * HOUR;

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is being done.
    pub phase: &'static str,
    /// First second of virtual time.
    pub start: i64,
    /// Present second of virtual time.
    pub now: i64,
    /// Last second of virtual time.
    pub end: i64,
    /// Made so far.
    pub events: u64,
    /// Acknowledged so far.
    pub delivered: u64,
    /// On their way.
    pub under_way: u64,
}

/// Why a run broke off.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The server.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A run that has come to the present, and may go on living.
#[derive(Debug)]
pub struct Run<'p> {
    driver: Driver<'p>,
    options: RunOptions,
    begun: (Instant, i64),
    ran: Duration,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<'p> Run<'p> {
    /// Connects a simulated Stripe with a server: one endpoint, with the server's first secret.
    pub fn new(
        stripe: &Stripe,
        target: Target,
        options: RunOptions,
        progress: &'p (dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Self, RunError> {
        let secrets = target.webhook_secrets.clone();
        let host = Host::new(target)?;
        let outbox = Outbox::new(options.seed, options.faults);
        let (endpoint, start) = {
            let mut world = stripe.world();
            // The shop was there before the endpoint.
            for event in world.take_events() {
                event.set_delivered();
            }
            let endpoint = world.account.create_endpoint(
                host.webhook_url(),
                vec!["*".to_owned()],
                secrets.first().cloned(),
                Some("Trueup".to_owned()),
                Metadata::new(),
            );
            (endpoint, world.now())
        };
        let settings = DriverOptions {
            at_once: options.at_once,
            give_up_after: options.give_up_after,
            timeout: options.timeout,
            speed: options.speed,
        };
        let mut driver = Driver::new(stripe, outbox, host, &settings, progress);
        driver.rotation = secrets.get(1).map(|secret| Rotation {
            at: start + (real_now() - start) / 2,
            endpoint,
            secret: secret.clone(),
            overlap: DAY,
        });
        driver.recorder = options.record.as_deref().map(Recorder::create).transpose()?;
        Ok(Self { driver, options, begun: (Instant::now(), start), ran: Duration::ZERO })
    }

    /// Lets the past pass, up to the present.
    pub async fn past(&mut self) -> Result<(), RunError> {
        self.driver.drive(real_now(), Hold::Yes).await?;
        self.catch_up().await?;
        self.ran = self.begun.0.elapsed();
        Ok(())
    }

    /// Nothing is under way any more, and virtual time is real time.
    async fn catch_up(&mut self) -> Result<(), RunError> {
        loop {
            let now = real_now();
            self.driver.drive(now, Hold::Yes).await?;
            self.driver.flush().await?;
            if real_now() - now <= 1 {
                return Ok(());
            }
        }
    }

    /// Waits until the server does nothing more with its inbox.
    async fn settle(&mut self) -> Result<Inbox, RunError> {
        let mut last = Inbox::default();
        let mut same = 0;
        loop {
            let inbox = self.driver.host.inbox().await?;
            same = if inbox == last && inbox.processing == 0 { same + 1 } else { 0 };
            last = inbox;
            if same >= SAME {
                return Ok(inbox);
            }
            let now = self.driver.stripe.world().now();
            self.driver.tell("waiting for the server", now, now);
            sleep(LOOK).await;
        }
    }

    /// Compares until nothing differs, or nothing has changed for as long as the patience lasts.
    async fn converge(&mut self) -> Result<(Compared, Inbox), RunError> {
        let mut last: Option<(Vec<Difference>, Instant)> = None;
        loop {
            self.catch_up().await?;
            let inbox = self.settle().await?;
            self.catch_up().await?;
            let (truth, now) = {
                let world = self.driver.stripe.world();
                (world.truth(), world.now())
            };
            let compared = compare(&self.driver.host, &truth, now).await?;
            if compared.differences.is_empty() {
                return Ok((compared, inbox));
            }
            match &last {
                Some((before, since)) if *before == compared.differences => {
                    if since.elapsed() >= self.options.patience {
                        return Ok((compared, inbox));
                    }
                }
                _ => last = Some((compared.differences.clone(), Instant::now())),
            }
            sleep(LOOK).await;
        }
    }

    /// Compares everything, asks for repairs where that is wanted and something was lost or differs, and tells what came of it all.
    pub async fn finish(&mut self, recover: Option<&Recover>) -> Result<Report, RunError> {
        let since = Instant::now();
        let (mut compared, mut inbox) = self.converge().await?;
        let after_webhooks = compared.differences.len() as u64;
        let needs_refresh = std::mem::take(&mut compared.needs_refresh);
        let (mut recovery, mut after_recovery, mut dry_run, mut reconciliation) = (None, None, None, None);
        let lost = self.driver.outbox.decided.dropped + self.driver.figures.gave_up;
        if self.options.repair && (after_webhooks > 0 || lost > 0) {
            recovery = self.recover(recover).await?;
            if recovery.is_some() {
                (compared, inbox) = self.converge().await?;
                after_recovery = Some(compared.differences.len() as u64);
            }
            dry_run = self.look(&compared).await?;
            if !compared.differences.is_empty() {
                reconciliation = self.driver.host.run_job("reconcile_subscriptions").await?;
                if reconciliation.is_some() {
                    (compared, inbox) = self.converge().await?;
                }
            }
        }
        let converged = compared.differences.is_empty().then(|| millis(since.elapsed()));
        let (truth, now) = {
            let world = self.driver.stripe.world();
            (world.truth(), world.now())
        };
        let ambiguous = self.driver.moments.ambiguous();
        let open = truth.subscriptions.iter().filter(|subscription| ambiguous.binary_search(&subscription.id).is_ok());
        let ambiguous_users = open.filter_map(|subscription| subscription.owner.clone()).collect();
        if let Some(recorder) = &mut self.driver.recorder {
            recorder.write(&Entry::Truth { truth })?;
            recorder.finish()?;
        }
        self.driver.recorder = None;
        let counted = |run: &Option<JobRun>, key: &str| run.as_ref().and_then(|run| run.report[key].as_u64());
        let (decided, figures) = (self.driver.outbox.decided, self.driver.figures);
        Ok(Report {
            events: decided.events,
            twins: decided.twins,
            dropped: decided.dropped,
            sent_twice: decided.duplicates,
            reordered: decided.reordered,
            delayed: decided.delayed,
            attempts: figures.attempts,
            attempts_failed: figures.failed,
            gave_up: figures.gave_up,
            forged: figures.forged,
            forged_taken: figures.forged_taken,
            delivered: figures.delivered,
            recorded: figures.recorded,
            duplicates: figures.duplicates,
            applied: inbox.completed,
            skipped: inbox.skipped,
            pending: inbox.pending + inbox.processing,
            failed: inbox.failed,
            users: compared.users,
            subscriptions: compared.subscriptions,
            needs_refresh: needs_refresh.into_iter().collect(),
            ambiguous,
            ambiguous_users,
            differences_after_webhooks: after_webhooks,
            recovered: counted(&recovery, "stored"),
            recovery,
            differences_after_recovery: after_recovery,
            dry_run,
            repaired: counted(&reconciliation, "repaired"),
            reconciliation,
            differences: compared.differences,
            slowest_ack_ms: millis(figures.slowest),
            virtual_days: (now - self.begun.1) / DAY,
            run_ms: millis(self.ran),
            converged_after_ms: converged,
        })
    }

    /// Fetches what never arrived, as far back as Stripe remembers; none where the server cannot.
    async fn recover(&self, recover: Option<&Recover>) -> Result<Option<JobRun>, RunError> {
        let Some(recover) = recover else {
            return Ok(self.driver.host.run_job("recover_missed_events").await?);
        };
        let since = self.begun.1.max(real_now() - RECALL);
        Ok(Some(match recover(since).await {
            Ok(report) => JobRun { outcome: "succeeded".to_owned(), report, error: None },
            Err(error) => JobRun { outcome: "failed".to_owned(), report: Value::Null, error: Some(error) },
        }))
    }

    /// Has the server look, and holds what it tells against what was compared.
    async fn look(&self, compared: &Compared) -> Result<Option<DryRun>, RunError> {
        let Some((outcome, drifts)) = self.driver.host.dry_run().await? else { return Ok(None) };
        let (truth, now) = {
            let world = self.driver.stripe.world();
            (world.truth(), world.now())
        };
        Ok(Some(dry_run::judge(&outcome, &drifts, &compared.differences, &truth, now)))
    }

    /// From now on this befalls the deliveries.
    pub fn set_faults(&mut self, faults: Faults) {
        self.driver.outbox.set_faults(faults);
    }

    /// Lives on in real time until told to stop; `pace` is about how many seconds lie between two acts of one person. About twice a second
    /// somebody uses what they have.
    pub async fn live(&mut self, pace: i64, stop: &CancellationToken) -> Result<(), RunError> {
        self.driver.stripe.world().set_pace(pace);
        let mut chance = Rng::new(self.options.seed, "usage");
        let mut used = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(LOOK) => {}
            }
            let now = real_now();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                done = self.driver.drive(now, Hold::No) => done?,
            }
            if used.elapsed() >= USES {
                used = Instant::now();
                let users: Vec<String> = {
                    let world = self.driver.stripe.world();
                    world.users().iter().filter(|user| user.made_at <= now).map(|user| user.id.clone()).collect()
                };
                if let Some(user) = chance.pick(&users) {
                    self.driver.host.use_some(user, chance.between(1, 3)).await?;
                }
            }
        }
    }
}

/// Sends a record again, in its order, one delivery after the other, and compares.
pub async fn replay(
    path: &std::path::Path,
    target: Target,
    patience: Duration,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Replayed, RunError> {
    let (entries, truth) = crate::record::read(path)?;
    let secret = target.webhook_secrets.first().cloned().unwrap_or_default();
    let host = Host::new(target)?;
    let total = entries.len() as u64;
    let mut replayed = Replayed { deliveries: 0, refused: 0, users: 0, differences: Vec::new() };
    for (done, entry) in (1..).zip(entries) {
        match entry {
            Entry::User { user } => {
                host.make_user(&user).await?;
                replayed.users += 1;
            }
            Entry::Delivery { body, .. } => {
                let header = signature::header(&[&secret], real_now(), body.as_bytes());
                let request = host.http.post(host.webhook_url()).header("stripe-signature", header).body(body);
                replayed.deliveries += 1;
                if !request.send().await.is_ok_and(|response| response.status().is_success()) {
                    replayed.refused += 1;
                }
            }
            Entry::Truth { .. } => {}
        }
        progress(done, total);
    }
    let since = Instant::now();
    loop {
        let inbox = host.inbox().await?;
        let compared = compare(&host, &truth, real_now()).await?;
        let settled = inbox.processing == 0 && since.elapsed() >= patience;
        if compared.differences.is_empty() || settled {
            replayed.differences = compared.differences;
            return Ok(replayed);
        }
        sleep(LOOK).await;
    }
}
