//! Moves the world, delivers what happens in it, and waits for the server.
//!
//! Virtual time runs as fast as the server acknowledges, and stands still while a delivery has to be tried again: three days of retries
//! would otherwise be over before a server that is away for seconds is back.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reqwest::{StatusCode, header::CONTENT_TYPE};
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    delivery::{Delivery, Outbox},
    host::Host,
    moments::Moments,
    record::{Entry, Recorder},
    run::{Progress, RunError},
    server::Stripe,
    signature,
    world::SimulatedUser,
};

/// Between the first failure of a delivery and the next try; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often progress is told.
const TOLD: Duration = Duration::from_millis(200);

/// What came of the deliveries.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) attempts: u64,
    /// Answered 2xx, among them what was sent twice.
    pub(crate) delivered: u64,
    pub(crate) delivered_again: u64,
    pub(crate) recorded: u64,
    pub(crate) duplicates: u64,
    pub(crate) skipped: u64,
    /// Attempts that were not answered 2xx.
    pub(crate) failed: u64,
    pub(crate) gave_up: u64,
    /// Sent by somebody without the secret.
    pub(crate) forged: u64,
    /// Of these answered 2xx, which none may be.
    pub(crate) forged_taken: u64,
    pub(crate) slowest: Duration,
}

/// What is over.
#[derive(Debug)]
enum Over {
    Attempt(Landed),
    /// What somebody else sent, and whether it was taken.
    Forged(bool),
}

/// An attempt that is over.
#[derive(Debug)]
struct Landed {
    delivery: Delivery,
    /// When it failed first.
    since: Option<Instant>,
    answer: Option<(StatusCode, Value)>,
    took: Duration,
}

/// Whether time stands still while something has to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Yes,
    No,
}

/// Rolls over to another secret.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    pub(crate) at: i64,
    pub(crate) endpoint: String,
    pub(crate) secret: String,
    /// How long the old one stays in force.
    pub(crate) overlap: i64,
}

pub(crate) struct Driver<'p> {
    pub(crate) stripe: Stripe,
    pub(crate) outbox: Outbox,
    pub(crate) host: Host,
    pub(crate) figures: Figures,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) rotation: Option<Rotation>,
    /// What has happened, told or lost.
    pub(crate) moments: Moments,
    /// By when they are made; the next one is the last.
    users: Vec<SimulatedUser>,
    flying: JoinSet<Over>,
    waiting: BTreeMap<(Instant, u64), (Delivery, Instant)>,
    count: u64,
    at_once: usize,
    give_up_after: Duration,
    timeout: Duration,
    /// Virtual seconds in a real one, at most.
    speed: Option<f64>,
    begun: (Instant, i64),
    told: Instant,
    progress: &'p (dyn Fn(&Progress) + Send + Sync),
}

/// What a driver works with.
pub(crate) struct DriverOptions {
    pub(crate) at_once: usize,
    pub(crate) give_up_after: Duration,
    /// How long an endpoint may take.
    pub(crate) timeout: Duration,
    pub(crate) speed: Option<f64>,
}

/// The second, on this machine's clock.
pub(crate) fn real_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl<'p> Driver<'p> {
    pub(crate) fn new(
        stripe: &Stripe,
        outbox: Outbox,
        host: Host,
        options: &DriverOptions,
        progress: &'p (dyn Fn(&Progress) + Send + Sync),
    ) -> Self {
        let mut users = stripe.world().users().to_vec();
        users.sort_by_key(|user| std::cmp::Reverse(user.made_at));
        let now = stripe.world().now();
        Self {
            stripe: stripe.clone(),
            outbox,
            host,
            figures: Figures::default(),
            recorder: None,
            rotation: None,
            moments: Moments::default(),
            users,
            flying: JoinSet::new(),
            waiting: BTreeMap::new(),
            count: 0,
            at_once: options.at_once.max(1),
            give_up_after: options.give_up_after,
            timeout: options.timeout,
            speed: options.speed,
            begun: (Instant::now(), now),
            told: Instant::now(),
            progress,
        }
    }

    /// Lets virtual time go on up to `target`, with everything delivered that arrives until then.
    pub(crate) async fn drive(&mut self, target: i64, hold: Hold) -> Result<(), RunError> {
        loop {
            tokio::task::yield_now().await;
            while let Some(landed) = self.flying.try_join_next() {
                self.land(landed);
            }
            let now = self.collect();
            self.tell("running", now, target);
            self.make_users(now).await?;
            while self.flying.len() < self.at_once {
                let Some((delivery, since)) = self.due(now) else { break };
                self.fly(delivery, since, now)?;
            }
            if self.flying.len() >= self.at_once {
                self.land_next().await;
                continue;
            }
            if hold == Hold::Yes && !self.waiting.is_empty() {
                self.wait_for_retry().await;
                continue;
            }
            if now >= target {
                if self.flying.is_empty() {
                    return Ok(());
                }
                self.land_next().await;
                continue;
            }
            let allowed = self.allowed().min(target);
            if now >= allowed {
                sleep(Duration::from_millis(5)).await;
                continue;
            }
            self.move_on(now, allowed);
        }
    }

    /// Delivers what is still under way, whenever it would have arrived.
    pub(crate) async fn flush(&mut self) -> Result<(), RunError> {
        loop {
            let now = self.collect();
            self.tell("delivering the rest", now, now);
            while self.flying.len() < self.at_once {
                let next = self.due(i64::MAX);
                let Some((delivery, since)) = next else { break };
                self.fly(delivery, since, now)?;
            }
            if !self.flying.is_empty() {
                self.land_next().await;
            } else if !self.waiting.is_empty() {
                self.wait_for_retry().await;
            } else if self.outbox.len() == 0 {
                return Ok(());
            }
        }
    }

    /// Hands what has happened to the outbox, and gives the second of virtual time.
    fn collect(&mut self) -> i64 {
        let mut world = self.stripe.world();
        let events = world.take_events();
        for event in &events {
            self.moments.note(event);
        }
        self.outbox.send(&mut world.account, events);
        let now = world.now();
        if let Some(rotation) = self.rotation.take_if(|rotation| rotation.at <= now) {
            world.account.roll_secret(&rotation.endpoint, rotation.secret, now + rotation.overlap);
        }
        now
    }

    /// The furthest that virtual time may be.
    fn allowed(&self) -> i64 {
        let Some(speed) = self.speed else { return i64::MAX };
        let (since, from) = self.begun;
        #[expect(clippy::cast_possible_truncation, reason = "a time of this century, or the greatest there is")]
        let gone = (since.elapsed().as_secs_f64() * speed) as i64;
        from.saturating_add(gone)
    }

    fn move_on(&mut self, now: i64, allowed: i64) {
        let mut world = self.stripe.world();
        let user = self.users.last().map(|user| user.made_at);
        let next = [world.next(), self.outbox.next(), user].into_iter().flatten().min();
        let next = next.unwrap_or(allowed).clamp(now, allowed);
        while world.step(next) {}
    }

    /// The host makes the users whose time has come.
    async fn make_users(&mut self, now: i64) -> Result<(), RunError> {
        while let Some(user) = self.users.pop_if(|user| user.made_at <= now) {
            self.host.make_user(&user).await?;
            if let Some(recorder) = &mut self.recorder {
                recorder.write(&Entry::User { user })?;
            }
        }
        Ok(())
    }

    /// The next delivery: one to be tried again, else one that arrives.
    fn due(&mut self, now: i64) -> Option<(Delivery, Option<Instant>)> {
        let again = self.waiting.first_entry().filter(|entry| entry.key().0 <= Instant::now());
        if let Some(entry) = again {
            let (delivery, since) = entry.remove();
            return Some((delivery, Some(since)));
        }
        self.outbox.take(now).map(|delivery| (delivery, None))
    }

    fn fly(&mut self, mut delivery: Delivery, since: Option<Instant>, now: i64) -> Result<(), RunError> {
        let body = delivery.event.body();
        let (url, header) = {
            let world = self.stripe.world();
            let Some(endpoint) = world.account.endpoints.get(&delivery.endpoint) else { return Ok(()) };
            // Every attempt is signed anew, on the real clock: that is what the server's tolerance looks at.
            let header = signature::header(&endpoint.secrets_at(now), real_now(), body.as_bytes());
            (endpoint.url.clone(), header)
        };
        if let Some(recorder) = &mut self.recorder {
            let (event, attempt) = (delivery.event.id.clone(), delivery.attempts + 1);
            recorder.write(&Entry::Delivery { at: now, event, attempt, body: body.clone() })?;
        }
        if std::mem::take(&mut delivery.forged) {
            self.forge(&delivery.event.id, url.clone(), &body);
        }
        self.figures.attempts += 1;
        let (http, timeout) = (self.host.http.clone(), self.timeout);
        self.flying.spawn(async move {
            let begun = Instant::now();
            let request = http.post(url).timeout(timeout).header("stripe-signature", header);
            let request = request.header(CONTENT_TYPE, "application/json; charset=utf-8").body(body);
            let answer = match request.send().await {
                Ok(response) => {
                    let status = response.status();
                    let body = response.bytes().await.ok();
                    Some((status, body.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default()))
                }
                Err(_) => None,
            };
            Over::Attempt(Landed { delivery, since, answer, took: begun.elapsed() })
        });
        Ok(())
    }

    /// Somebody without the secret sends an event that says that everything is over.
    fn forge(&mut self, event: &str, url: String, body: &str) {
        let body = body.replacen(event, &format!("{event}x"), 1).replace("\"active\"", "\"canceled\"");
        let header = signature::header(&["whsec_of_somebody_else"], real_now(), body.as_bytes());
        let request = self.host.http.post(url).timeout(self.timeout).header("stripe-signature", header).body(body);
        self.figures.forged += 1;
        self.flying.spawn(async move {
            Over::Forged(request.send().await.is_ok_and(|response| response.status().is_success()))
        });
    }

    async fn land_next(&mut self) {
        if let Some(landed) = self.flying.join_next().await {
            self.land(landed);
        }
    }

    fn land(&mut self, landed: Result<Over, tokio::task::JoinError>) {
        let Landed { mut delivery, since, answer, took } = match landed {
            Ok(Over::Attempt(landed)) => landed,
            Ok(Over::Forged(taken)) => {
                self.figures.forged_taken += u64::from(taken);
                return;
            }
            // A task that panicked has told so.
            Err(_) => return,
        };
        if let Some((status, body)) = answer
            && status.is_success()
        {
            let figures = &mut self.figures;
            figures.delivered += 1;
            figures.delivered_again += u64::from(delivery.again);
            figures.slowest = figures.slowest.max(took);
            match body["outcome"].as_str() {
                Some("recorded") => figures.recorded += 1,
                Some("duplicate") => figures.duplicates += 1,
                _ => figures.skipped += 1,
            }
            delivery.event.set_delivered();
            return;
        }
        self.figures.failed += 1;
        let since = since.unwrap_or_else(Instant::now);
        if since.elapsed() >= self.give_up_after {
            // As Stripe does after three days.
            self.figures.gave_up += 1;
            return;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << delivery.attempts.min(16)).min(LONGEST_PAUSE);
        delivery.attempts += 1;
        self.count += 1;
        self.waiting.insert((Instant::now() + pause, self.count), (delivery, since));
    }

    /// Waits until something can be tried again, or something lands.
    async fn wait_for_retry(&mut self) {
        let Some((&(at, _), _)) = self.waiting.first_key_value() else { return };
        if self.flying.is_empty() {
            sleep_until(at).await;
        } else if let Ok(Some(landed)) = timeout_at(at, self.flying.join_next()).await {
            self.land(landed);
        }
    }

    pub(crate) fn tell(&mut self, phase: &'static str, now: i64, end: i64) {
        if self.told.elapsed() < TOLD {
            return;
        }
        self.told = Instant::now();
        (self.progress)(&Progress {
            phase,
            start: self.begun.1,
            now,
            end,
            events: self.outbox.decided.events,
            delivered: self.figures.delivered,
            under_way: (self.outbox.len() + self.flying.len() + self.waiting.len()) as u64,
        });
    }
}

impl std::fmt::Debug for Driver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("figures", &self.figures).finish_non_exhaustive()
    }
}
