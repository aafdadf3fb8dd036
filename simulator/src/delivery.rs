//! What befalls events on their way: lost, late, in another order, twice, under two ids. Decided by chance from the seed, and pure: nothing
//! is sent here.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    account::Account,
    calendar::{DAY, HOUR},
    event::Event,
    rng::{Rng, Share},
};

/// How often what goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Never arrives. Half of these Stripe takes for delivered: something between answered 2xx.
    pub drop: Share,
    /// Arrives once more, up to two days later.
    pub duplicate: Share,
    /// Is overtaken by what happened later, by up to half a day.
    pub reorder: Share,
    /// Comes late, by an hour to three days.
    pub delay: Share,
    /// Is told under two ids.
    pub twins: Share,
    /// Somebody without the secret sends something like it as well.
    pub forged: Share,
}

/// One delivery of an event to an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) event: Arc<Event>,
    pub(crate) endpoint: String,
    /// Attempts that have failed.
    pub(crate) attempts: u32,
    /// True for one more delivery of an event that has arrived, or will.
    pub(crate) again: bool,
    /// True where somebody without the secret is to send something like it.
    pub(crate) forged: bool,
}

/// What was decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) events: u64,
    pub(crate) twins: u64,
    pub(crate) dropped: u64,
    pub(crate) duplicates: u64,
    pub(crate) reordered: u64,
    pub(crate) delayed: u64,
}

/// Deliveries that are under way, by the second of virtual time in which they arrive.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: BTreeMap<(i64, u64), Delivery>,
    count: u64,
    chance: Rng,
    faults: Faults,
    pub(crate) decided: Decided,
}

/// Longest usual way, in seconds.
const USUAL: i64 = 2;
/// How far something may be overtaken.
const OVERTAKEN: i64 = 12 * HOUR;

impl Outbox {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let chance = Rng::new(seed, "delivery");
        Self { queue: BTreeMap::new(), count: 0, chance, faults, decided: Decided::default() }
    }

    /// From now on this befalls what happens.
    pub(crate) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Takes what has just happened, and decides what becomes of it.
    pub(crate) fn send(&mut self, account: &mut Account, events: Vec<Arc<Event>>) {
        for event in events {
            self.decided.events += 1;
            let endpoint = account.endpoints.iter().find(|endpoint| endpoint.wants(event.event_type));
            let Some(endpoint) = endpoint.map(|endpoint| endpoint.id.clone()) else {
                event.set_delivered();
                continue;
            };
            if self.chance.chance(self.faults.twins) {
                self.decided.twins += 1;
                let twin = event.twin(format!("evt_1{}", self.chance.letters(23)));
                account.list(&twin);
                self.post(twin, &endpoint);
            }
            self.post(event, &endpoint);
        }
    }

    fn post(&mut self, event: Arc<Event>, endpoint: &str) {
        // As many draws whatever comes of them, so that one dial does not turn another.
        let usual = self.chance.between(0, USUAL);
        let dropped = self.chance.chance(self.faults.drop);
        let silently = self.chance.percent(50);
        let reordered = self.chance.chance(self.faults.reorder);
        let delayed = self.chance.chance(self.faults.delay);
        let duplicated = self.chance.chance(self.faults.duplicate);
        let forged = self.chance.chance(self.faults.forged);
        let (overtaken, late, again) =
            (self.far(), self.chance.between(HOUR, 3 * DAY), self.chance.between(1, 2 * DAY));
        if dropped {
            self.decided.dropped += 1;
            if silently {
                event.set_delivered();
            }
            return;
        }
        let mut way = usual;
        if reordered {
            self.decided.reordered += 1;
            way += overtaken;
        }
        if delayed {
            self.decided.delayed += 1;
            way += late;
        }
        let at = event.created;
        if duplicated {
            self.decided.duplicates += 1;
            self.put(
                at + again,
                Delivery {
                    event: Arc::clone(&event),
                    endpoint: endpoint.to_owned(),
                    attempts: 0,
                    again: true,
                    forged: false,
                },
            );
        }
        self.put(at + way, Delivery { event, endpoint: endpoint.to_owned(), attempts: 0, again: false, forged });
    }

    /// Between two seconds and half a day, as often near as far: most of what overtakes comes within minutes.
    fn far(&mut self) -> i64 {
        let bound = USUAL << self.chance.between(1, 14);
        self.chance.between(bound / 2, bound).min(OVERTAKEN)
    }

    pub(crate) fn put(&mut self, at: i64, delivery: Delivery) {
        self.count += 1;
        self.queue.insert((at, self.count), delivery);
    }

    /// When the next one arrives.
    pub(crate) fn next(&self) -> Option<i64> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    /// The next one that arrives until `now`.
    pub(crate) fn take(&mut self, now: i64) -> Option<Delivery> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::NewEvent, version::ApiVersion};

    fn post(faults: Faults) -> (Decided, Vec<(i64, String)>) {
        let mut account = Account::new(1, 0, ApiVersion::Endive, Share::NONE);
        account.create_endpoint("http://x/".into(), vec!["*".into()], None, None, BTreeMap::new());
        let mut outbox = Outbox::new(3, faults);
        let event = |number: i64| {
            Event::new(NewEvent {
                id: format!("evt_{number}"),
                event_type: "customer.created",
                created: number * 60,
                subscription: None,
                object: serde_json::json!({}),
                previous: None,
                version: ApiVersion::Endive,
                request: None,
            })
        };
        outbox.send(&mut account, (0..2000).map(event).collect());
        let mut arrived = Vec::new();
        while let Some(at) = outbox.next() {
            let delivery = outbox.take(at).expect("due");
            arrived.push((at, delivery.event.id.clone()));
        }
        (outbox.decided, arrived)
    }

    #[test]
    fn without_faults_everything_arrives_once_within_seconds() {
        let (decided, arrived) = post(Faults::default());
        assert_eq!(decided, Decided { events: 2000, ..Decided::default() });
        assert_eq!(arrived.len(), 2000);
        assert!(arrived.iter().enumerate().all(|(number, (_, id))| *id == format!("evt_{number}")));
    }

    #[test]
    fn every_dial_does_what_it_says_and_turns_no_other() {
        let near = |count: u64, percent: u64| (percent * 20).abs_diff(count) < 80;
        let all = Faults {
            drop: Share::percent(5),
            duplicate: Share::percent(10),
            reorder: Share::percent(20),
            delay: Share::percent(5),
            twins: Share::percent(8),
            forged: Share::percent(5),
        };
        let (decided, arrived) = post(all);
        assert!(near(decided.dropped, 5) && near(decided.twins, 8), "{decided:?}");
        assert!(near(decided.duplicates, 10) && near(decided.reordered, 20) && near(decided.delayed, 5), "{decided:?}");
        assert_eq!(arrived.len() as u64, 2000 + decided.twins + decided.duplicates - decided.dropped);
        let (more, _) = post(Faults { drop: Share::NONE, twins: Share::NONE, ..all });
        let (same, _) = post(Faults { drop: Share::percent(5), twins: Share::NONE, ..all });
        assert!(more.reordered > same.reordered && same.dropped > 0);
        let (first, second) = (post(all), post(all));
        assert_eq!(first, second);
    }

    #[test]
    fn half_of_what_is_lost_stripe_takes_for_delivered() {
        let mut account = Account::new(1, 0, ApiVersion::Endive, Share::NONE);
        account.create_endpoint("http://x/".into(), vec!["*".into()], None, None, BTreeMap::new());
        for number in 0..100 {
            account.create_product(None, format!("{number}"), BTreeMap::new());
        }
        let events = account.take_events();
        let mut outbox = Outbox::new(3, Faults { drop: Share::ALL, ..Faults::default() });
        outbox.send(&mut account, events.clone());
        assert_eq!(outbox.len(), 0);
        let delivered = events.iter().filter(|event| event.is_delivered()).count();
        assert!((30..70).contains(&delivered), "{delivered}");
    }
}
