//! Histories of a customer as Stripe would tell them, generated.

use std::collections::BTreeMap;

use billing::samples::{
    ApiVersion, CheckoutSessionSample, CustomerSample, InvoiceSample, Metadata, SubscriptionSample, event,
};
use entity::ids::UserId;
use proptest::prelude::*;
use serde_json::Value;

use crate::desk::{NOW, user_id};

/// How the customer of a history finds their user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tie {
    Metadata,
    Reference,
    Email,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Buy {
        plan: usize,
        trial: bool,
    },
    Renew,
    FailPayment,
    PayLate,
    ChangePlan(usize),
    ScheduleEnd,
    Unschedule,
    End,
    Pause,
    Resume,
    ChangeEmail,
    DeleteCustomer,
    /// Another customer with the user's address turns up, made before or after the first, and buys.
    Rival {
        older: bool,
    },
    /// It is deleted.
    DeleteRival,
}

/// What happens to one user, in order.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) tie: Tie,
    /// What, to which of the subscriptions, and how many seconds after the last; 0 makes a burst within one second.
    pub(crate) steps: Vec<(Step, usize, i64)>,
}

pub(crate) const PLANS: [&str; 3] = ["starter", "pro", "elite"];
pub(crate) const EMAIL: &str = "Ada@Example.com";

pub(crate) fn user() -> UserId {
    user_id(0xada)
}

pub(crate) fn script(bursts: bool) -> impl Strategy<Value = Script> {
    let step = prop_oneof![
        3 => (0..3_usize, any::<bool>()).prop_map(|(plan, trial)| Step::Buy { plan, trial }),
        3 => Just(Step::Renew),
        2 => Just(Step::FailPayment),
        2 => Just(Step::PayLate),
        2 => (0..3_usize).prop_map(Step::ChangePlan),
        1 => Just(Step::ScheduleEnd),
        1 => Just(Step::Unschedule),
        1 => Just(Step::End),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        1 => Just(Step::ChangeEmail),
        1 => prop::strategy::Union::new_weighted(vec![(1, Just(Step::DeleteCustomer)), (3, Just(Step::Renew))]),
    ];
    // Whose a rival is takes the laws to say; Stripe has no last word on it.
    let step = if bursts {
        let rival = prop_oneof![any::<bool>().prop_map(|older| Step::Rival { older }), Just(Step::DeleteRival)];
        prop_oneof![10 => step, 1 => rival].boxed()
    } else {
        step.boxed()
    };
    let pause =
        if bursts { prop_oneof![1 => Just(0_i64), 2 => 3..90_000_i64].boxed() } else { (3..90_000_i64).boxed() };
    let tie = prop_oneof![Just(Tie::Metadata), Just(Tie::Reference), Just(Tie::Email)];
    (tie, prop::collection::vec((step, 0..3_usize, pause), 1..12)).prop_map(|(tie, mut steps)| {
        steps.insert(0, (Step::Buy { plan: 1, trial: false }, 0, 10));
        Script { tie, steps }
    })
}

struct World {
    version: ApiVersion,
    tie: Tie,
    now: i64,
    number: usize,
    customer: CustomerSample,
    subscriptions: Vec<SubscriptionSample>,
    invoices: usize,
    rival: Option<CustomerSample>,
    /// The invoice of each subscription that waits for its payment.
    unpaid: BTreeMap<usize, InvoiceSample>,
    events: Vec<Value>,
}

impl World {
    fn tell(&mut self, event_type: &str, object: Value) {
        self.number += 1;
        // Ids are not in the order of time: nothing may rest on that.
        let id = format!("evt_{:08x}", (self.number * 2_654_435_761) & 0xffff_ffff);
        self.events.push(event(&id, event_type, self.now, self.version, object, None));
    }

    fn tell_subscription(&mut self, index: usize, event_type: &str) {
        let object = self.subscriptions[index].render(self.version);
        self.tell(event_type, object);
    }

    fn invoice(&mut self, index: usize, reason: &str, status: &str) -> InvoiceSample {
        self.invoices += 1;
        let id = format!("in_{}", self.invoices);
        InvoiceSample::of(&self.subscriptions[index], id, reason, status, self.now)
    }

    fn buy(&mut self, plan: usize, trial: bool) {
        let number = self.subscriptions.len() + 1;
        let status = if trial { "trialing" } else { "active" };
        let mut subscription =
            SubscriptionSample::new(format!("sub_{number}"), self.customer.id.clone(), status, self.now);
        subscription.items[0].lookup_key = Some(PLANS[plan].to_owned());
        subscription.items[0].price = format!("price_{}", PLANS[plan]);
        if trial {
            subscription.trial_start = Some(self.now);
            subscription.trial_end = Some(self.now + 14 * 86_400);
        }
        subscription.metadata = Metadata::new();
        if self.tie == Tie::Metadata {
            subscription.metadata.insert("user_id".into(), user().to_string());
        }
        self.subscriptions.push(subscription);
        let index = self.subscriptions.len() - 1;
        self.tell_subscription(index, "customer.subscription.created");
        let invoice = self.invoice(index, "subscription_create", "paid").render(self.version);
        self.tell("invoice.paid", invoice);
        let mut session = CheckoutSessionSample::new(
            format!("cs_{number}"),
            self.customer.id.clone(),
            format!("sub_{number}"),
            self.now,
        );
        session.client_reference_id = (self.tie == Tie::Reference).then(|| user().to_string());
        session.email = Some(EMAIL.to_owned());
        session.metadata = Metadata::from([("tier".to_owned(), PLANS[plan].to_owned())]);
        self.tell("checkout.session.completed", session.render(self.version));
    }

    fn rival(&mut self, older: bool) {
        if self.rival.is_some() {
            return;
        }
        let made_at = if older { self.customer.created - 100 } else { self.now };
        let rival = CustomerSample::new("cus_0", EMAIL, made_at);
        let object = rival.render(self.version);
        self.rival = Some(rival);
        self.tell("customer.created", object);
        let mut subscription = SubscriptionSample::new("sub_rival", "cus_0", "active", self.now);
        subscription.items[0].lookup_key = Some(PLANS[2].to_owned());
        subscription.metadata = Metadata::new();
        let object = subscription.render(self.version);
        self.tell("customer.subscription.created", object);
    }

    fn step(&mut self, step: Step, which: usize) {
        if let Step::Buy { plan, trial } = step {
            if self.subscriptions.len() < 3 && !self.customer.deleted {
                self.buy(plan, trial);
            }
            return;
        }
        match step {
            Step::Rival { older } => return self.rival(older),
            Step::DeleteRival => {
                if let Some(object) = self.rival.as_ref().map(|rival| rival.render(self.version)) {
                    self.tell("customer.deleted", object);
                }
                return;
            }
            _ => {}
        }
        if self.customer.deleted {
            return;
        }
        match step {
            Step::ChangeEmail => {
                self.customer.email = Some(format!("new{}@example.com", self.now));
                let object = self.customer.render(self.version);
                return self.tell("customer.updated", object);
            }
            Step::DeleteCustomer => {
                let object = self.customer.render(self.version);
                self.customer.deleted = true;
                return self.tell("customer.deleted", object);
            }
            _ => {}
        }
        let index = which % self.subscriptions.len();
        if self.subscriptions[index].status == "canceled" {
            return;
        }
        let now = self.now;
        match step {
            Step::Renew => {
                self.subscriptions[index].set_period(now, now + 30 * 86_400);
                self.subscriptions[index].status = "active".into();
                let invoice = self.invoice(index, "subscription_cycle", "paid").render(self.version);
                self.tell("invoice.paid", invoice);
                self.tell_subscription(index, "customer.subscription.updated");
            }
            Step::FailPayment => {
                self.subscriptions[index].status = "past_due".into();
                let invoice = self.invoice(index, "subscription_cycle", "open");
                self.tell("invoice.finalized", invoice.render(self.version));
                self.tell("invoice.payment_failed", invoice.render(self.version));
                self.unpaid.insert(index, invoice);
                self.tell_subscription(index, "customer.subscription.updated");
            }
            Step::PayLate if self.subscriptions[index].status == "past_due" => {
                self.subscriptions[index].status = "active".into();
                let Some(mut invoice) = self.unpaid.remove(&index) else { return };
                invoice.status = "paid".into();
                invoice.paid_at = Some(now);
                let invoice = invoice.render(self.version);
                self.tell("invoice.payment_succeeded", invoice.clone());
                self.tell("invoice.paid", invoice);
                self.tell_subscription(index, "customer.subscription.updated");
            }
            Step::ChangePlan(plan) => {
                self.subscriptions[index].items[0].lookup_key = Some(PLANS[plan].to_owned());
                self.subscriptions[index].items[0].price = format!("price_{}", PLANS[plan]);
                self.tell_subscription(index, "customer.subscription.updated");
            }
            Step::ScheduleEnd => {
                // Far beyond the moment at which tests look.
                self.subscriptions[index].cancel_at = Some(NOW + 400 * 86_400);
                self.tell_subscription(index, "customer.subscription.updated");
            }
            Step::Unschedule if self.subscriptions[index].cancel_at.is_some() => {
                self.subscriptions[index].cancel_at = None;
                self.tell_subscription(index, "customer.subscription.updated");
            }
            Step::End => {
                self.subscriptions[index].status = "canceled".into();
                self.subscriptions[index].ended_at = Some(now);
                self.tell_subscription(index, "customer.subscription.deleted");
            }
            Step::Pause => {
                self.subscriptions[index].status = "paused".into();
                self.tell_subscription(index, "customer.subscription.paused");
            }
            Step::Resume if self.subscriptions[index].status == "paused" => {
                self.subscriptions[index].status = "active".into();
                self.tell_subscription(index, "customer.subscription.resumed");
            }
            _ => {}
        }
    }
}

/// The events of a script in the shape of a version, and how the script ends: tier and access by Stripe's own last word.
pub(crate) fn play(script: &Script, version: ApiVersion) -> (Vec<Value>, (String, bool)) {
    let start = NOW - 40 * 86_400;
    let mut customer = CustomerSample::new("cus_1", EMAIL, start);
    if script.tie == Tie::Metadata {
        customer.metadata.insert("user_id".into(), user().to_string());
    }
    let mut world = World {
        version,
        tie: script.tie,
        now: start,
        number: 0,
        customer,
        subscriptions: Vec::new(),
        invoices: 0,
        rival: None,
        unpaid: BTreeMap::new(),
        events: Vec::new(),
    };
    let object = world.customer.render(version);
    world.tell("customer.created", object);
    for (step, which, pause) in &script.steps {
        world.now += pause;
        world.step(*step, *which);
    }
    let governing = world
        .subscriptions
        .iter()
        .filter(|_| !world.customer.deleted)
        .filter(|s| matches!(s.status.as_str(), "active" | "trialing" | "past_due"))
        .filter_map(|s| PLANS.iter().position(|plan| s.items[0].lookup_key.as_deref() == Some(plan)))
        .max();
    let end = governing.map_or(("free".to_owned(), false), |plan| (PLANS[plan].to_owned(), true));
    (world.events, end)
}
