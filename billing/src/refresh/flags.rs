//! Which subscriptions are to be asked for, and when: in memory, and bounded. What is forgotten is found in the database again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{TimeDelta, Utc};
use entity::{Time, ids::SubscriptionId};
use tokio::{sync::Notify, time::Instant};

use super::GROUP;

/// Subscriptions that are remembered at most, each in some 100 bytes.
const REMEMBERED: usize = 10_000;
/// After this second another one has begun, for all that whole seconds can tell.
const A_MOMENT: TimeDelta = TimeDelta::seconds(2);
/// How long a subscription that was fetched is left alone by sweeps.
const RESTS: Duration = Duration::from_secs(30);

/// How asking for one subscription ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// What Stripe shows is stored.
    Settled,
    /// Stored, but Stripe's clock is still in the second that is ambiguous.
    TooEarly,
    /// Stripe does not answer, or not to this key.
    Away,
    /// Missing, unreadable, or the database refuses it: asking again soon is of no use.
    Useless,
}

/// A subscription to be fetched.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) id: SubscriptionId,
    pub(super) newer_than: Option<Time>,
}

/// What the processor flagged, and when which subscription may be fetched again. Shared by everyone who fetches in this process.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    state: Mutex<State>,
    pub(super) wake: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Not taken up yet: what a fetched snapshot must be newer than.
    new: HashMap<SubscriptionId, Option<Time>>,
    paces: HashMap<SubscriptionId, Pace>,
    /// Where the last sweep ended.
    pub(super) swept_to: String,
}

/// When a subscription may be fetched again.
#[derive(Debug, Clone, Copy)]
struct Pace {
    next: Instant,
    failures: u32,
}

impl Flags {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These want to be fetched.
    pub(crate) fn add(&self, due: Vec<(SubscriptionId, Option<Time>)>) {
        if due.is_empty() {
            return;
        }
        {
            let mut state = self.state();
            for (id, newer_than) in due {
                if state.new.len() >= REMEMBERED {
                    break;
                }
                let kept = state.new.entry(id).or_default();
                *kept = newer_than.max(*kept);
            }
        }
        self.wake.notify_one();
    }

    pub(super) fn take(&self) -> HashMap<SubscriptionId, Option<Time>> {
        std::mem::take(&mut self.state().new)
    }

    pub(super) fn may_fetch(&self, id: &SubscriptionId, now: Instant) -> bool {
        self.state().paces.get(id).is_none_or(|pace| pace.next <= now)
    }

    /// Notes how a fetch ended, and returns the pause until the next one helps.
    pub(super) fn note(&self, id: &SubscriptionId, fate: Fate, now: Instant) -> Duration {
        let mut state = self.state();
        if state.paces.len() >= REMEMBERED {
            state.paces.retain(|_, pace| pace.next > now);
            if state.paces.len() >= REMEMBERED {
                state.paces.clear();
            }
        }
        let failures = state.paces.get(id).map_or(0, |pace| pace.failures);
        let doubled = |first: u64, longest: u64| Duration::from_secs((first << failures.min(12)).min(longest));
        let (pause, failures) = match fate {
            Fate::Settled => (RESTS, 0),
            Fate::TooEarly => (Duration::from_secs(1), 0),
            Fate::Away => (doubled(5, 300), failures + 1),
            Fate::Useless => (doubled(60, 86_400), failures + 1),
        };
        state.paces.insert(id.clone(), Pace { next: now + pause, failures });
        pause
    }
}

/// What [`super::Refresher::run`] has before it.
#[derive(Debug, Default)]
pub(super) struct Queue(HashMap<SubscriptionId, Queued>);

#[derive(Debug)]
struct Queued {
    newer_than: Option<Time>,
    at: Instant,
    tries: u32,
}

/// Tries of one subscription before it is left to sweeps.
const MOST_TRIES: u32 = 8;

impl Queue {
    pub(super) fn admit(&mut self, flagged: HashMap<SubscriptionId, Option<Time>>) {
        for (id, newer_than) in flagged {
            if self.0.len() >= REMEMBERED && !self.0.contains_key(&id) {
                continue;
            }
            // By our clock, which is Stripe's but for a few seconds: a call before would most likely come too early.
            let wait = newer_than.map_or(TimeDelta::zero(), |moment| moment + A_MOMENT - Utc::now());
            let wait = wait.clamp(TimeDelta::zero(), TimeDelta::seconds(5)).to_std().unwrap_or_default();
            self.0.insert(id, Queued { newer_than, at: Instant::now() + wait, tries: 0 });
        }
    }

    pub(super) fn due(&self, now: Instant) -> Vec<Due> {
        let due = self.0.iter().filter(|(_, queued)| queued.at <= now).take(GROUP);
        due.map(|(id, queued)| Due { id: id.clone(), newer_than: queued.newer_than }).collect()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|queued| queued.at).min()
    }

    pub(super) fn ended(&mut self, id: &SubscriptionId, fate: Fate, pause: Duration) {
        let Some(queued) = self.0.get_mut(id) else { return };
        queued.tries += 1;
        queued.at = Instant::now() + pause;
        let again = matches!(fate, Fate::TooEarly | Fate::Away) && queued.tries < MOST_TRIES;
        if !again {
            self.0.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> SubscriptionId {
        SubscriptionId::parse(format!("sub_{number}")).expect("an id")
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_of_no_use_is_asked_for_ever_more_seldom_and_what_settled_begins_anew() {
        let flags = Flags::default();
        let now = Instant::now();
        let pauses: Vec<u64> = (0..8).map(|_| flags.note(&id(1), Fate::Useless, now).as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3840, 7680]);
        assert!(!flags.may_fetch(&id(1), now + Duration::from_secs(7679)));
        assert!(flags.may_fetch(&id(1), now + Duration::from_mins(128)));
        let last = (0..20).map(|_| flags.note(&id(1), Fate::Useless, now)).last();
        assert_eq!(last, Some(Duration::from_hours(24)));
        flags.note(&id(1), Fate::Settled, now);
        assert_eq!(flags.note(&id(1), Fate::Useless, now).as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let flags = Flags::default();
        flags.add((0..3 * REMEMBERED).map(|number| (id(number), None)).collect());
        assert_eq!(flags.take().len(), REMEMBERED);
        for number in 0..2 * REMEMBERED {
            flags.note(&id(number), Fate::Settled, Instant::now());
        }
        assert!(flags.state().paces.len() <= REMEMBERED);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_flags_the_later_moment_has_to_be_passed() {
        let flags = Flags::default();
        let at = |seconds| Time::from_timestamp(seconds, 0);
        flags.add(vec![(id(1), at(5)), (id(1), None), (id(1), at(9)), (id(1), at(7))]);
        assert_eq!(flags.take()[&id(1)], at(9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_that_is_not_over_is_waited_out_and_not_called_through() {
        let mut queue = Queue::default();
        queue.admit(HashMap::from([(id(1), Some(Utc::now())), (id(2), None)]));
        assert_eq!(queue.due(Instant::now()).len(), 1, "the one without a second to wait for");
        queue.ended(&id(2), Fate::Settled, RESTS);
        let next = queue.next().expect("the other");
        assert!(next > Instant::now() + Duration::from_secs(1) && next <= Instant::now() + Duration::from_secs(2));
        for _ in 0..MOST_TRIES {
            queue.ended(&id(1), Fate::TooEarly, Duration::from_secs(1));
        }
        assert_eq!(queue.next(), None, "left to sweeps");
    }
}
