//! One driver for each job: it sleeps until a bell rings or a slot comes, looks, and sees one run through at a time.
//!
//! So a job never overlaps itself in this process, however often its bell rings; and never on another, by its lease. Whether a slot has come
//! the database's clock says: whoever is woken too early waits for it.

use std::sync::Arc;

use billing::progress::Progress;
use chrono::TimeDelta;
use entity::{Time, enums::RunOutcome};
use sea_orm::DbErr;
use tokio::{
    sync::{Notify, mpsc},
    time::{Duration, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    lease::{self, Ending, Take, Taken},
    news::{Beat, News},
    run::{Ground, see_through},
    settings::Planned,
    store::{self, View},
};

/// Pauses after an error of the database grow from the one to the other.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Another process was faster by a hair; what it did shows at the next look.
const HAIR: Duration = Duration::from_millis(50);

/// After a take-up that found nothing where something was due.
const PUZZLED: Duration = Duration::from_secs(1);

pub(crate) struct Driver {
    pub(crate) planned: Planned,
    pub(crate) ground: Ground,
    /// Name of this process in leases and history.
    pub(crate) runner: Arc<str>,
    /// How often to look when nothing wakes it.
    pub(crate) look: Duration,
    pub(crate) bell: Arc<Notify>,
    /// Runs that a person asked for, taken up already.
    pub(crate) asked: mpsc::Receiver<Taken>,
    pub(crate) stop: CancellationToken,
    pub(crate) beat: Arc<Beat>,
    pub(crate) state: State,
}

/// What a driver remembers; nothing of it has to survive.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The job's rows are there.
    ready: bool,
    /// For this slot this delay was drawn.
    drawn: Option<(Time, TimeDelta)>,
}

/// What to do after a look.
enum Turn {
    Again,
    Wait(Duration),
}

impl Driver {
    /// Works until it is told to stop.
    pub(crate) async fn run(&mut self) {
        let mut pause = Duration::ZERO;
        while !self.stop.is_cancelled() {
            let turn = self.turn().await;
            self.beat.beat();
            let wait = match turn {
                Ok(Turn::Again) => {
                    pause = Duration::ZERO;
                    continue;
                }
                Ok(Turn::Wait(wait)) => {
                    pause = Duration::ZERO;
                    wait
                }
                Err(error) => {
                    tracing::warn!(job = self.planned.spec.name, %error, "a job could not be looked at; trying again");
                    pause = (pause * 2).clamp(PAUSES.0, PAUSES.1);
                    pause
                }
            };
            let asked = tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                Some(taken) = self.asked.recv() => Some(taken),
                // A bell does not shorten the pause after an error.
                () = self.bell.notified(), if pause.is_zero() => None,
                () = sleep(wait) => None,
            };
            if let Some(taken) = asked {
                self.execute(taken).await;
            }
        }
        // Asked for too late.
        while let Ok(taken) = self.asked.try_recv() {
            give_up(&self.ground, self.planned.spec.name, &taken).await;
        }
    }

    /// Looks once, and runs what is due.
    async fn turn(&mut self) -> Result<Turn, DbErr> {
        let job = self.planned.spec.name;
        if !self.state.ready {
            self.prepare().await?;
            self.state.ready = true;
        }
        let db = &self.ground.db;
        let Some(view) = store::look(db.reader(), job).await? else {
            self.state.ready = false;
            return Ok(Turn::Wait(PUZZLED));
        };
        if view.slots_after > view.now {
            tracing::warn!(job, "the database's clock was set back; slots are counted from now on");
            let tx = db.write().await?;
            store::mend_baseline(&*tx, job).await?;
            tx.commit().await?;
            return Ok(Turn::Again);
        }
        let scheduled = self.planned.settings.enabled && !view.paused;
        let next_run = scheduled.then(|| self.planned.settings.schedule.after(view.now)).flatten();
        (self.ground.observer)(&News::Looked { job, next_run, last_success: view.last_success });
        let rest = next_run.map_or(self.look, |next| self.look.min(until(&view, next)));
        let decision = lease::decision(&self.planned, &view);
        let first = decision.due.first();
        if first.is_none() && !view.unfinished {
            return Ok(Turn::Wait(rest));
        }
        if !view.free {
            // Its holder may die.
            return Ok(Turn::Wait(rest.min(until(&view, view.expires_at))));
        }
        if let Some(due) = first {
            let at = due.slot + self.delay(due.slot);
            if at > view.now {
                return Ok(Turn::Wait(self.look.min(until(&view, at))));
            }
        }
        match lease::take_due(&self.ground.db, &self.planned, &self.runner, self.ground.lease).await? {
            Take::Taken(taken) => {
                self.execute(taken).await;
                Ok(Turn::Again)
            }
            Take::Held => Ok(Turn::Wait(HAIR)),
            Take::Nothing => Ok(Turn::Wait(rest.min(PUZZLED))),
        }
    }

    /// Makes the job's rows. One that is seen for the first time, or by another schedule, has no past.
    async fn prepare(&self) -> Result<(), DbErr> {
        let (job, settings) = (self.planned.spec.name, &self.planned.settings);
        let tx = self.ground.db.write().await?;
        store::ensure(&*tx, job).await?;
        store::count_by(&*tx, job, if settings.enabled { settings.schedule.as_str() } else { "" }).await?;
        tx.commit().await
    }

    /// How long after its moment this slot is to be taken up.
    fn delay(&mut self, slot: Time) -> TimeDelta {
        let jitter = self.planned.settings.jitter;
        match self.state.drawn {
            _ if jitter.is_zero() => TimeDelta::zero(),
            Some((drawn, delay)) if drawn == slot => delay,
            _ => {
                let delay = TimeDelta::from_std(jitter.mul_f64(rand::random::<f64>())).unwrap_or_default();
                self.state.drawn = Some((slot, delay));
                delay
            }
        }
    }

    async fn execute(&self, taken: Taken) {
        see_through(&self.ground, &self.planned, taken, &self.stop, Progress::default(), &self.beat).await;
    }
}

/// From the look until then, by the database's clock, and a little more.
fn until(view: &View, then: Time) -> Duration {
    (then - view.now).to_std().unwrap_or_default() + Duration::from_millis(1)
}

/// A run that was written down and never begins.
pub(crate) async fn give_up(ground: &Ground, job: &str, taken: &Taken) {
    let error = Some("the process stopped before it began".to_owned());
    let ending = Ending { outcome: RunOutcome::Interrupted, report: None, error };
    if let Err(error) = lease::end(&ground.db, job, taken.run.token, taken.run.id, &ending).await {
        tracing::warn!(job, %error, "a run that never began could not be ended; its lease runs out");
    }
}
