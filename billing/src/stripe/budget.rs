//! How many calls a second we allow ourselves, and who goes first.
//!
//! Stripe limits an account to 100 calls a second in live mode and 25 in a sandbox, for each endpoint to 25
//! (docs.stripe.com/rate-limits), and the host's own calls count too. Here a [`governor`] limiter says when there is room, and two queues
//! say for whom: live work goes first, so a walk in the background never costs it more than the one slot that was just given away. Within a
//! queue it is first come, first served. Where live work alone would fill the budget for ever, every tenth slot still goes to the background.

use std::{
    num::NonZeroU32,
    sync::{Mutex as StdMutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep},
};

use super::Lane;

/// Slots in a row that live work may take while the background waits.
const IN_A_ROW: u32 = 9;

/// Tokio's clock, so that tests can stop it.
#[derive(Debug, Clone)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

/// Who stands at the head of the queues.
#[derive(Debug, Default)]
struct Heads {
    live: u32,
    background: u32,
    /// Slots that live work took, one after the other, while the background waited.
    overtaken: u32,
}

impl Heads {
    /// Whose is the next slot?
    fn next(&self) -> Lane {
        if self.background > 0 && (self.live == 0 || self.overtaken >= IN_A_ROW) {
            Lane::Background
        } else {
            Lane::Live
        }
    }

    fn of(&mut self, lane: Lane) -> &mut u32 {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Background => &mut self.background,
        }
    }
}

/// The budget of calls that everybody in this process shares.
#[derive(Debug)]
pub struct Budget {
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>,
    clock: TokioClock,
    live: Mutex<()>,
    background: Mutex<()>,
    heads: StdMutex<Heads>,
    /// Told whenever the heads change.
    changed: Notify,
}

impl Budget {
    /// So many calls a second; after a rest a quarter of that at once.
    pub fn new(per_second: NonZeroU32) -> Self {
        let burst = NonZeroU32::new(per_second.get() / 4).unwrap_or(NonZeroU32::MIN);
        let clock = TokioClock(Instant::now());
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            limiter: RateLimiter::direct_with_clock(quota, clock.clone()),
            clock,
            live: Mutex::default(),
            background: Mutex::default(),
            heads: StdMutex::default(),
            changed: Notify::new(),
        }
    }

    /// Waits for a slot, takes it, and tells how long that took. May be given up at any point.
    pub async fn take(&self, lane: Lane) -> Duration {
        let begun = Instant::now();
        let queue = match lane {
            Lane::Live => &self.live,
            Lane::Background => &self.background,
        };
        let _turn = queue.lock().await;
        let _head = Head::step_up(self, lane);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Listens before it looks, so no change goes unnoticed.
            changed.as_mut().enable();
            if self.heads().next() != lane {
                changed.await;
                continue;
            }
            match self.limiter.check() {
                Ok(()) => break,
                Err(not_before) => sleep(not_before.wait_time_from(self.clock.now())).await,
            }
        }
        let mut heads = self.heads();
        heads.overtaken = match lane {
            Lane::Live if heads.background > 0 => heads.overtaken + 1,
            _ => 0,
        };
        begun.elapsed()
    }

    fn heads(&self) -> std::sync::MutexGuard<'_, Heads> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands at the head of a queue until dropped, be it with a slot or without.
struct Head<'a> {
    budget: &'a Budget,
    lane: Lane,
}

impl<'a> Head<'a> {
    fn step_up(budget: &'a Budget, lane: Lane) -> Self {
        *budget.heads().of(lane) += 1;
        budget.changed.notify_waiters();
        Self { budget, lane }
    }
}

impl Drop for Head<'_> {
    fn drop(&mut self) {
        *self.budget.heads().of(self.lane) -= 1;
        self.budget.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;

    fn budget(per_second: u32) -> Arc<Budget> {
        Arc::new(Budget::new(NonZeroU32::new(per_second).expect("not zero")))
    }

    /// Uses up what a rest has saved.
    async fn exhaust(budget: &Budget, burst: u32) {
        for _ in 0..burst {
            assert_eq!(budget.take(Lane::Background).await, Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_holds_more_calls_than_the_rate_and_a_quarter() {
        let budget = budget(20);
        let begun = Instant::now();
        let mut taken = Vec::new();
        for _ in 0..65 {
            budget.take(Lane::Background).await;
            taken.push(begun.elapsed());
        }
        for first in &taken {
            let within = taken.iter().filter(|at| *at >= first && **at < *first + Duration::from_secs(1)).count();
            assert!(within <= 25, "{within}");
        }
        // Five at once, then sixty at twenty a second.
        let took = taken.last().expect("some").as_secs_f64();
        assert!((2.95..=3.05).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_live_call_waits_for_one_slot_at_most_however_many_wait_in_the_background() {
        let budget = budget(20);
        exhaust(&budget, 5).await;
        let mut walk = JoinSet::new();
        for _ in 0..200 {
            let budget = Arc::clone(&budget);
            walk.spawn(async move { budget.take(Lane::Background).await });
        }
        let slot = Duration::from_millis(51);
        for after in [10, 125, 333, 1001] {
            sleep(Duration::from_millis(after)).await;
            let waited = budget.take(Lane::Live).await;
            assert!(waited <= slot, "{waited:?}");
        }
        // Several at once take one slot after the other, with none in between for the background.
        let begun = Instant::now();
        let mut live = JoinSet::new();
        for _ in 0..6 {
            let budget = Arc::clone(&budget);
            live.spawn(async move { budget.take(Lane::Live).await });
        }
        live.join_all().await;
        assert!(begun.elapsed() <= 6 * slot, "{:?}", begun.elapsed());
        walk.join_all().await;
    }

    #[tokio::test(start_paused = true)]
    async fn while_live_work_fills_the_budget_every_tenth_slot_is_the_backgrounds() {
        let budget = budget(20);
        exhaust(&budget, 5).await;
        let mut calls = JoinSet::new();
        for (lane, number) in [(Lane::Live, 90), (Lane::Background, 20)] {
            for _ in 0..number {
                let budget = Arc::clone(&budget);
                calls.spawn(async move {
                    budget.take(lane).await;
                    lane
                });
            }
        }
        let mut order = Vec::new();
        while let Some(lane) = calls.join_next().await {
            order.push(lane.expect("no panic"));
        }
        let background = order.iter().take(90).filter(|lane| **lane == Lane::Background).count();
        assert!((8..=10).contains(&background), "{background}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_waiting_blocks_nobody() {
        let budget = budget(1);
        exhaust(&budget, 1).await;
        let waiting = |lane| {
            let budget = Arc::clone(&budget);
            tokio::spawn(async move { budget.take(lane).await })
        };
        let (given_up, next) = (waiting(Lane::Live), waiting(Lane::Background));
        sleep(Duration::from_millis(500)).await;
        given_up.abort();
        let waited = next.await.expect("it is not the one that was given up");
        assert!(waited <= Duration::from_millis(1001), "{waited:?}");
    }
}
