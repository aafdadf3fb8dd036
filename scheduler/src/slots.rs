//! Which slots are to be run: a pure function of what was run and of what time it is.
//!
//! A slot is a moment of a job's schedule. It belongs to the past as soon as it, or a later one, was taken up; what lies between there and
//! now is due or missed, and the job's policy says which. Nothing here remembers anything: a clock that jumps, a process that slept or
//! was never there, are all told by the same two facts.

use chrono::TimeDelta;
use entity::Time;

use crate::{Missed, cron::Schedule};

/// Slots that are caught up one by one, at most.
pub const MOST: usize = 100;

/// How often one slot is tried whose runs are cut off; then the next slot has its turn.
pub const ATTEMPTS: i16 = 3;

/// How late a slot may be taken up and still count as on time: bells ring with half a second's grain, and a database may be slow.
pub const GRACE: TimeDelta = TimeDelta::seconds(10);

/// Missed slots are counted for people; beyond this it does not matter how many.
const COUNTED: usize = 1000;

/// The newest slot that was taken up, not counting runs that a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenUp {
    /// The slot.
    pub slot: Time,
    /// Its last attempt.
    pub attempt: i16,
    /// True where that attempt was cut off.
    pub cut_off: bool,
}

/// What is known of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// Slots up to here were never the job's to run: it was first seen, resumed, or got another schedule at this moment.
    pub after: Time,
    /// The newest slot that was taken up.
    pub last: Option<TakenUp>,
}

/// A slot to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The slot.
    pub slot: Time,
    /// Which attempt at it this is.
    pub attempt: i16,
    /// True where it is caught up rather than on time.
    pub late: bool,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// To be run, one after the other.
    pub due: Vec<Due>,
    /// Slots that are passed over when the first of these is taken up.
    pub missed: u64,
}

/// What is due at `now`. `slack` is how much later than [`GRACE`] a slot may be and still be on time: the job's jitter.
///
/// What was recorded for a moment after `now`, by a clock that has since been set back, counts for nothing here: otherwise the job would
/// stand still until then. Should such a slot come again, its key in the database is taken, and it does not run twice.
pub fn decide(schedule: &Schedule, missed: Missed, slack: TimeDelta, past: &Past, now: Time) -> Decision {
    let last = past.last.filter(|last| last.slot <= now);
    let after = match (past.after <= now, &last) {
        (true, _) => past.after,
        (false, Some(last)) => last.slot,
        (false, None) => return Decision::default(),
    };
    let start = last.map_or(after, |last| last.slot.max(after));
    let late = |slot: Time| now - slot > GRACE + slack;
    let again = last.filter(|last| last.cut_off && last.attempt < ATTEMPTS && last.slot > after).map(|last| Due {
        slot: last.slot,
        attempt: last.attempt + 1,
        late: true,
    });
    match missed {
        Missed::All => {
            let mut slots: Vec<Time> = schedule.between(start, now).take(MOST + COUNTED).collect();
            let missed = slots.len().saturating_sub(MOST);
            slots.truncate(MOST);
            let newest = slots.first().copied();
            let fresh = slots.into_iter().rev().map(|slot| {
                let late = late(slot) || newest != Some(slot);
                Due { slot, attempt: 1, late }
            });
            Decision { due: again.into_iter().chain(fresh).collect(), missed: missed as u64 }
        }
        Missed::Once | Missed::Skip => {
            let mut slots = schedule.between(start, now);
            let newest = slots.next().map(|slot| Due { slot, attempt: 1, late: late(slot) });
            let newest = match missed {
                Missed::Skip => newest.filter(|due| !due.late),
                _ => newest.or(again),
            };
            let passed = if newest.is_some_and(|due| due.attempt == 1) { slots.take(COUNTED).count() } else { 0 };
            Decision { due: newest.into_iter().collect(), missed: passed as u64 }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const POLICIES: [Missed; 3] = [Missed::Once, Missed::All, Missed::Skip];

    const NONE: [Time; 0] = [];

    fn minutely() -> Schedule {
        "0 * * * * *".parse().expect("a schedule")
    }

    fn at(text: &str) -> Time {
        format!("2026-11-24T{text}Z").parse().expect("a moment")
    }

    fn taken(slot: Time) -> TakenUp {
        TakenUp { slot, attempt: 1, cut_off: false }
    }

    fn slots(missed: Missed, past: &Past, now: Time) -> Vec<Time> {
        decide(&minutely(), missed, TimeDelta::zero(), past, now).due.iter().map(|due| due.slot).collect()
    }

    #[test]
    fn each_policy_makes_its_own_of_an_hour_asleep() {
        let past = Past { after: at("09:00:00"), last: Some(taken(at("10:00:00"))) };
        let now = at("11:00:30");
        assert_eq!(slots(Missed::Once, &past, now), [at("11:00:00")]);
        let all = slots(Missed::All, &past, now);
        assert_eq!((all.len(), all[0], all[59]), (60, at("10:01:00"), at("11:00:00")));
        assert_eq!(slots(Missed::Skip, &past, now), NONE);
        assert_eq!(slots(Missed::Skip, &past, at("11:01:09")), [at("11:01:00")], "it has just rung");
        for (policy, missed) in [(Missed::Once, 60), (Missed::All, 0), (Missed::Skip, 60)] {
            let decision = decide(&minutely(), policy, TimeDelta::zero(), &past, at("11:01:00"));
            assert_eq!(decision.missed, missed, "{policy:?}");
        }
    }

    #[test]
    fn what_is_late_is_caught_up_and_what_has_just_rung_is_not() {
        let past = Past { after: at("10:00:00"), last: None };
        let late = |now, slack| {
            let decision = decide(&minutely(), Missed::Once, TimeDelta::seconds(slack), &past, at(now));
            decision.due.first().map(|due| due.late)
        };
        assert_eq!(late("10:00:59", 0), None);
        assert_eq!(late("10:01:10", 0), Some(false));
        assert_eq!(late("10:01:11", 0), Some(true));
        assert_eq!(late("10:01:11", 30), Some(false), "the job's own jitter makes nothing late");
        let two = decide(&minutely(), Missed::All, TimeDelta::zero(), &past, at("10:02:01"));
        assert_eq!(two.due.iter().map(|due| due.late).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn all_of_them_are_a_hundred_at_most_and_the_rest_counts_as_missed() {
        let past = Past { after: at("00:00:00"), last: None };
        let decision = decide(&minutely(), Missed::All, TimeDelta::zero(), &past, at("05:00:00"));
        assert_eq!(decision.due.len(), 100);
        assert_eq!(decision.due[0].slot, at("03:21:00"));
        assert_eq!(decision.missed, 200);
    }

    #[test]
    fn a_slot_whose_run_was_cut_off_is_run_again_twice_at_most_and_then_the_next_has_its_turn() {
        let cut = |attempt| Some(TakenUp { slot: at("10:00:00"), attempt, cut_off: true });
        let past = |attempt| Past { after: at("09:00:00"), last: cut(attempt) };
        let due = |policy, attempt, now| decide(&minutely(), policy, TimeDelta::zero(), &past(attempt), now).due;
        for policy in [Missed::Once, Missed::All] {
            for (attempt, next) in [(1, Some(2)), (2, Some(3)), (3, None)] {
                let first = due(policy, attempt, at("10:00:20")).first().map(|due| (due.slot, due.attempt));
                assert_eq!(first, next.map(|next| (at("10:00:00"), next)), "{policy:?}");
            }
        }
        // By then the next slot has come: with `once` it stands for both.
        let slots = |policy| due(policy, 1, at("10:02:00")).iter().map(|due| due.slot).collect::<Vec<_>>();
        assert_eq!(slots(Missed::Once), [at("10:02:00")]);
        assert_eq!(slots(Missed::All), [at("10:00:00"), at("10:01:00"), at("10:02:00")]);
        assert_eq!(due(Missed::Skip, 1, at("10:00:20")), []);
        // Resumed since: it is not missed, and not made up for.
        let resumed = Past { after: at("10:00:10"), last: cut(1) };
        assert_eq!(decide(&minutely(), Missed::All, TimeDelta::zero(), &resumed, at("10:00:20")).due, []);
    }

    #[test]
    fn a_new_installation_has_no_past() {
        let past = Past { after: at("10:00:30"), last: None };
        for policy in POLICIES {
            assert_eq!(slots(policy, &past, at("10:00:30")), NONE);
            assert_eq!(slots(policy, &past, at("10:01:00")), [at("10:01:00")]);
        }
    }

    #[test]
    fn paused_slots_are_not_missed_ones() {
        let past = Past { after: at("12:00:30"), last: Some(taken(at("10:00:00"))) };
        for policy in POLICIES {
            assert_eq!(slots(policy, &past, at("12:00:45")), NONE);
            let decision = decide(&minutely(), policy, TimeDelta::zero(), &past, at("12:01:00"));
            assert_eq!((decision.due.len(), decision.missed), (1, 0), "{policy:?}");
        }
    }

    #[test]
    fn what_was_written_by_a_clock_since_set_back_stops_nothing() {
        // Resumed, or first seen, while the clock was a year ahead.
        let ahead = at("10:00:00") + TimeDelta::days(365);
        let last = Some(taken(at("10:00:00")));
        for policy in POLICIES {
            assert_eq!(slots(policy, &Past { after: ahead, last }, at("10:01:00")), [at("10:01:00")]);
            assert_eq!(
                slots(policy, &Past { after: ahead, last: None }, at("10:01:00")),
                NONE,
                "the baseline is mended first"
            );
            let past = Past { after: at("09:00:00"), last: Some(taken(ahead)) };
            assert_eq!(slots(policy, &past, at("10:01:00")).last(), Some(&at("10:01:00")));
        }
    }

    /// A whole scheduler in miniature: what the database would hold, and what it would do at each look.
    struct Model {
        schedule: Schedule,
        policy: Missed,
        after: Time,
        /// As the table's key has it: one outcome for each attempt at each slot; true where cut off.
        runs: BTreeMap<(Time, i16), bool>,
    }

    impl Model {
        /// Looks until nothing is due; tells how many runs it began.
        fn look(&mut self, now: Time, cut: bool) -> usize {
            if self.after > now {
                self.after = now;
            }
            let mut begun = 0;
            loop {
                let last = self.runs.range(..=(now, i16::MAX)).next_back();
                let last = last.map(|(&(slot, attempt), &cut_off)| TakenUp { slot, attempt, cut_off });
                let past = Past { after: self.after, last };
                let decision = decide(&self.schedule, self.policy, TimeDelta::zero(), &past, now);
                let Some(due) = decision.due.first() else { return begun };
                assert!(due.slot <= now && due.attempt <= ATTEMPTS, "{due:?} at {now}");
                let before = self.runs.insert((due.slot, due.attempt), cut);
                assert_eq!(before, None, "{due:?} ran twice");
                begun += 1;
                assert!(begun <= usize::from(ATTEMPTS.unsigned_abs()) * (MOST + 1), "a storm of runs");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the clock does and whatever dies, no attempt runs twice, no look begins a storm, and a job that is looked at with a
        /// clock that goes on runs on.
        #[test]
        fn clocks_may_jump_and_runs_may_be_cut_off(
            policy in prop::sample::select(&POLICIES[..]),
            every in prop::sample::select(&["* * * * * *", "*/7 * * * * *", "0 * * * * *", "0 */15 * * * *", "0 0 3 * * *"][..]),
            steps in prop::collection::vec(
                (prop_oneof![0_i64..5, 0_i64..200, -100_000_i64..100_000, -40_000_000_i64..40_000_000], any::<bool>()), 1..30),
        ) {
            let start = at("10:00:00");
            let mut model = Model { schedule: every.parse().expect("a schedule"), policy, after: start, runs: BTreeMap::new() };
            let mut now = start;
            for (step, cut) in steps {
                now += TimeDelta::seconds(step);
                model.look(now, cut);
            }
            // From here on the clock goes as it should, and every slot that comes runs, unless it did when the clock was ahead.
            for _ in 0..5 {
                let slot = model.schedule.after(now).expect("a next slot");
                now = slot + TimeDelta::milliseconds(300);
                model.look(now, false);
                prop_assert!(model.runs.keys().any(|(ran, _)| *ran == slot), "{} was left out", slot);
            }
        }

        /// A scheduler that is always awake runs each slot once and misses none.
        #[test]
        fn looks_that_come_in_time_run_each_slot_once(
            policy in prop::sample::select(&POLICIES[..]), looks in prop::collection::vec(0_i64..9_000, 1..60),
        ) {
            let start = at("10:00:00");
            let mut model =
                Model { schedule: "*/10 * * * * *".parse().expect("a schedule"), policy, after: start, runs: BTreeMap::new() };
            let mut now = start;
            for pause in looks {
                now += TimeDelta::milliseconds(pause);
                model.look(now, false);
            }
            let expected = (now - start).num_seconds() / 10;
            prop_assert_eq!(i64::try_from(model.runs.len()).expect("few"), expected);
        }
    }
}
