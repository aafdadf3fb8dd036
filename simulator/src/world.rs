//! The account and the people who use it, on one clock.

use std::sync::Arc;

use crate::{
    account::Account,
    event::Event,
    rng::{Rng, Share},
    story::Story,
    truth::{self, Truth},
    version::ApiVersion,
};

/// A plan of the server under test, as far as a price can lead to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// Its name; the first plan is the one without a subscription.
    pub tier: String,
    /// Uses in a month; none is unlimited.
    pub limit: Option<i64>,
    /// Prices that grant it.
    pub prices: Vec<String>,
    /// Lookup keys that grant it.
    pub lookup_keys: Vec<String>,
    /// Products that grant it.
    pub products: Vec<String>,
}

impl Plan {
    /// What a server without a catalogue of its own offers.
    pub fn defaults() -> Vec<Self> {
        let plan = |tier: &str, limit| Self {
            tier: tier.to_owned(),
            limit,
            lookup_keys: vec![tier.to_owned()],
            ..Self::default()
        };
        vec![plan("free", Some(5)), plan("starter", Some(25)), plan("pro", Some(100)), plan("elite", None)]
    }
}

/// What makes a world; the same makes the same.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// How many people there are.
    pub customers: u32,
    /// The second in which the world begins.
    pub start: i64,
    /// Within how many seconds from the start everybody has come.
    pub arrivals: i64,
    /// The account's version, in which events are written.
    pub version: ApiVersion,
    /// The plans that can be bought, lowest first.
    pub plans: Vec<Plan>,
    /// How often two changes of one subscription fall into one second.
    pub bursts: Share,
}

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SimulatedUser {
    /// A UUID.
    pub id: String,
    /// Unique.
    pub email: String,
    /// When the host makes the user; for some this is later than their first event.
    pub made_at: i64,
}

/// A simulated Stripe with its customers. Moves only when told to.
#[derive(Debug)]
pub struct World {
    pub(crate) account: Account,
    story: Story,
    pub(crate) plans: Vec<Plan>,
}

impl World {
    /// A world at its first second.
    pub fn new(options: &WorldOptions) -> Self {
        let mut account = Account::new(options.seed, options.start, options.version, options.bursts);
        let story = Story::new(&mut account, options, Rng::new(options.seed, "story"));
        Self { account, story, plans: options.plans.clone() }
    }

    /// The second of virtual time.
    pub fn now(&self) -> i64 {
        self.account.now()
    }

    /// When something happens next.
    pub fn next(&self) -> Option<i64> {
        [self.account.next_due(), self.story.next()].into_iter().flatten().min()
    }

    /// Lets the next thing happen that is due until `until`; where there is none, time passes to `until`, and the answer is false.
    pub fn step(&mut self, until: i64) -> bool {
        let person = self.story.next().filter(|at| *at <= until);
        let stripe = self.account.next_due().filter(|at| *at <= until);
        match (stripe, person) {
            (Some(at), other) if other.is_none_or(|other| at <= other) => self.account.step(until),
            (_, Some(_)) => {
                self.story.act(&mut self.account, until);
                true
            }
            (Some(_), None) => self.account.step(until),
            (None, None) => {
                self.account.pass(until);
                false
            }
        }
    }

    /// Lets everything happen until `until`.
    pub fn advance(&mut self, until: i64) {
        while self.step(until) {}
    }

    /// What happened since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Arc<Event>> {
        self.account.take_events()
    }

    /// The users of the host, whether made already or not.
    pub fn users(&self) -> &[SimulatedUser] {
        self.story.users()
    }

    /// From now on people act about every `seconds`, each.
    pub fn set_pace(&mut self, seconds: i64) {
        self.story.set_pace(seconds, self.account.now());
    }

    /// What a server must know of all this, now.
    pub fn truth(&self) -> Truth {
        truth::of(&self.account, self.story.users(), &self.plans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::DAY;

    pub(crate) const START: i64 = 1_780_000_000;

    fn options(seed: u64) -> WorldOptions {
        WorldOptions {
            seed,
            customers: 15,
            start: START,
            arrivals: 40 * DAY,
            version: ApiVersion::Endive,
            plans: Plan::defaults(),
            bursts: Share::NONE,
        }
    }

    fn history(options: &WorldOptions, days: i64) -> Vec<String> {
        let mut world = World::new(options);
        let mut log = Vec::new();
        // In steps of any size: the calls do not show.
        for step in 1..=days {
            world.advance(options.start + step * DAY);
            log.extend(world.take_events().iter().map(|event| event.body()));
        }
        log
    }

    #[test]
    fn the_same_seed_gives_the_same_history_to_the_byte() {
        let first = history(&options(7), 100);
        assert!(first.len() > 300, "only {} events", first.len());
        assert_eq!(first, history(&options(7), 100));
        assert_ne!(first, history(&options(8), 100));
    }

    #[test]
    fn it_does_not_matter_in_which_steps_time_passes() {
        let mut at_once = World::new(&options(3));
        at_once.advance(START + 70 * DAY);
        let bodies: Vec<String> = at_once.take_events().iter().map(|event| event.body()).collect();
        assert_eq!(bodies, history(&options(3), 70));
    }

    #[test]
    fn without_bursts_no_two_contents_of_one_subscription_share_a_second() {
        let mut world = World::new(&options(11));
        world.advance(START + 150 * DAY);
        let mut seen = std::collections::HashMap::new();
        for event in world.take_events() {
            if !event.event_type.starts_with("customer.subscription.") {
                continue;
            }
            let body: serde_json::Value = serde_json::from_str(&event.body()).expect("JSON");
            let object = body["data"]["object"].clone();
            let key = (event.subscription.clone(), event.created);
            let other = seen.insert(key, object.clone()).unwrap_or_else(|| object.clone());
            assert_eq!(other, object, "{:?} in {}", event.subscription, event.created);
        }
        assert!(seen.len() > 150, "only {} changes", seen.len());
    }

    #[test]
    fn a_history_holds_every_kind_of_event_that_matters() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..10 {
            let mut world = World::new(&options(seed));
            world.advance(START + 150 * DAY);
            kinds.extend(world.take_events().iter().map(|event| event.event_type));
        }
        for kind in [
            "checkout.session.completed",
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
            "checkout.session.expired",
            "customer.subscription.created",
            "customer.subscription.updated",
            "customer.subscription.deleted",
            "customer.subscription.paused",
            "customer.subscription.resumed",
            "customer.subscription.trial_will_end",
            "invoice.created",
            "invoice.paid",
            "invoice.payment_succeeded",
            "invoice.payment_failed",
            "invoice.payment_action_required",
            "invoice.finalized",
            "invoice.voided",
            "invoice.marked_uncollectible",
            "invoice.updated",
            "invoice.upcoming",
            "customer.created",
            "customer.updated",
            "customer.deleted",
            "charge.succeeded",
            "charge.failed",
            "charge.refunded",
            "charge.dispute.created",
        ] {
            assert!(kinds.contains(kind), "{kind} never happens");
        }
    }

    #[test]
    fn with_bursts_some_contents_do_share_a_second() {
        let mut world = World::new(&WorldOptions { bursts: Share::percent(50), ..options(5) });
        world.advance(START + 120 * DAY);
        let mut seen = std::collections::HashMap::new();
        let mut shared = 0;
        for event in world.take_events().iter().filter(|event| event.event_type == "customer.subscription.updated") {
            let body: serde_json::Value = serde_json::from_str(&event.body()).expect("JSON");
            let key = (event.subscription.clone(), event.created);
            let other = seen.insert(key, body["data"]["object"].clone());
            shared += usize::from(other.is_some_and(|other| other != body["data"]["object"]));
        }
        assert!(shared > 10, "only {shared}");
    }
}
