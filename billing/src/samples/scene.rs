//! The events that Stripe sends together when something happens.

use serde_json::{Value, json};

use super::{
    ApiVersion, ChargeSample, CheckoutSessionSample, CustomerSample, DisputeSample, InvoiceSample, ItemSample,
    Metadata, SubscriptionSample, event, month_before, next_period,
};

const DAY: i64 = 86_400;
const VERSION: ApiVersion = ApiVersion::LATEST;

/// Who does what, for [`scene_events`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// Event ids are `evt_{seed}_{n}`, counted from 1; the ids the scene makes up itself bear it too.
    pub seed: String,
    /// The host's user: goes into metadata and references. Without one, the events that tell of a subscription come after a
    /// `customer.created` with the e-mail address, so that they find their user.
    pub user_id: Option<String>,
    /// The customer's address.
    pub email: String,
    /// What the price grants, by its metadata.
    pub tier: String,
    /// `cus_…`
    pub customer: String,
    /// `sub_…`
    pub subscription: String,
    /// `in_…`
    pub invoice: String,
    /// `price_…`; absent: one made up from the tier.
    pub price: Option<String>,
    /// `prod_…`
    pub product: String,
    /// The price's lookup key.
    pub lookup_key: Option<String>,
    /// The period that a subscription already has: events inside a period keep it. Absent: it begins at `at`.
    pub period: Option<(i64, i64)>,
    /// The second in which it happens; no event is later.
    pub at: i64,
    /// False in a sandbox.
    pub livemode: bool,
}

impl Scene {
    /// A new sandbox customer with ids made of the seed, and a price whose lookup key is the tier.
    pub fn new(seed: impl Into<String>, email: impl Into<String>, tier: impl Into<String>, at: i64) -> Self {
        let (seed, tier) = (seed.into(), tier.into());
        Self {
            user_id: None,
            email: email.into(),
            customer: format!("cus_{seed}"),
            subscription: format!("sub_{seed}"),
            invoice: format!("in_{seed}"),
            price: None,
            product: format!("prod_sample_{tier}"),
            lookup_key: Some(tier.clone()),
            period: None,
            at,
            livemode: false,
            seed,
            tier,
        }
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}_{}", self.seed)
    }

    fn user_metadata(&self) -> Metadata {
        self.user_id.iter().map(|id| ("user_id".to_owned(), id.clone())).collect()
    }

    fn customer(&self, created: i64) -> CustomerSample {
        let mut customer = CustomerSample::new(&self.customer, &self.email, created);
        customer.metadata = self.user_metadata();
        customer.livemode = self.livemode;
        customer
    }

    /// The subscription inside its period.
    fn subscription(&self, status: &str) -> SubscriptionSample {
        let (start, end) = self.period.unwrap_or_else(|| (self.at, next_period(self.at, "month", 1)));
        let mut subscription = SubscriptionSample::new(&self.subscription, &self.customer, status, start);
        let price = self.price.clone().unwrap_or_else(|| format!("price_sample_{}", self.tier));
        for item in &mut subscription.items {
            item.price.clone_from(&price);
            item.product.clone_from(&self.product);
            item.lookup_key.clone_from(&self.lookup_key);
            item.nickname = Some(format!("{}, billed monthly", self.tier));
            item.price_metadata = Metadata::from([("tier".to_owned(), self.tier.clone())]);
        }
        if status != "trialing" {
            subscription.set_period(start, end);
        }
        subscription.description = Some(format!("Subscription to {}, billed monthly", self.tier));
        subscription.metadata = self.user_metadata();
        subscription.latest_invoice = Some(self.invoice.clone());
        subscription.livemode = self.livemode;
        subscription
    }

    /// The subscription whose next period begins now, and its items as they were before.
    fn renewed(&self, status: &str) -> (SubscriptionSample, Value) {
        let mut subscription = self.subscription(status);
        let (start, end) = self.period.unwrap_or_else(|| (month_before(self.at), self.at));
        (subscription.created, subscription.billing_cycle_anchor) = (start, start);
        subscription.set_period(start, end);
        let before = json!({ "data": subscription.render_items(VERSION) });
        subscription.set_period(self.at, next_period(self.at, "month", 1));
        (subscription, before)
    }

    fn invoice(&self, subscription: &SubscriptionSample, reason: &str, status: &str) -> InvoiceSample {
        let mut invoice = InvoiceSample::of(subscription, &self.invoice, reason, status, self.at);
        invoice.customer_email = Some(self.email.clone());
        if reason == "subscription_cycle" {
            invoice.period_start = subscription.created;
        }
        invoice
    }

    fn session(&self, payment_status: &str) -> CheckoutSessionSample {
        let created = self.at.saturating_sub(60);
        let mut session = CheckoutSessionSample::new(
            self.id(if self.livemode { "cs_live" } else { "cs_test" }),
            &self.customer,
            &self.subscription,
            created,
        );
        session.invoice = Some(self.invoice.clone());
        session.client_reference_id.clone_from(&self.user_id);
        session.metadata = self.user_metadata();
        session.metadata.insert("tier".to_owned(), self.tier.clone());
        session.email = Some(self.email.clone());
        payment_status.clone_into(&mut session.payment_status);
        session.livemode = self.livemode;
        session
    }

    fn charge(&self) -> ChargeSample {
        let mut charge = ChargeSample::new(self.id("ch"), &self.customer, self.at.saturating_sub(DAY));
        charge.email = Some(self.email.clone());
        charge.livemode = self.livemode;
        charge
    }
}

/// The events, in the newest shape and a natural order, that Stripe sends when the one asked for happens; that one is among them. `None`
/// for a type that is not in [`super::EVENT_TYPES`].
pub fn scene_events(event_type: &str, scene: &Scene) -> Option<Vec<Value>> {
    let mut script = Script { scene, events: Vec::new() };
    match event_type.split_once('.')? {
        ("checkout", _) => script.checkout(event_type)?,
        ("customer", rest) if rest.starts_with("subscription.") => script.subscription(event_type)?,
        ("customer", _) => script.customer(event_type)?,
        ("invoice", _) => script.invoice(event_type)?,
        ("charge", _) => script.charge(event_type)?,
        _ => return None,
    }
    Some(script.events)
}

struct Script<'a> {
    scene: &'a Scene,
    events: Vec<Value>,
}

impl Script<'_> {
    fn push_at(&mut self, event_type: &str, at: i64, object: Value, previous: Option<Value>) {
        let id = format!("evt_{}_{}", self.scene.seed, self.events.len() + 1);
        self.events.push(event(&id, event_type, at, VERSION, object, previous));
    }

    fn push(&mut self, event_type: &str, object: Value, previous: Option<Value>) {
        self.push_at(event_type, self.scene.at, object, previous);
    }

    fn customer_created(&mut self) {
        let at = self.scene.at.saturating_sub(2);
        self.push_at("customer.created", at, self.scene.customer(at).render(VERSION), None);
    }

    /// Without a user id, only the customer's address leads to the user.
    fn introduce(&mut self) {
        if self.scene.user_id.is_none() {
            self.customer_created();
        }
    }

    /// A subscription begins, and its first invoice is paid.
    fn begin(&mut self) {
        let mut subscription = self.scene.subscription("active");
        subscription.created = self.scene.at;
        subscription.billing_cycle_anchor = self.scene.at;
        subscription.set_period(self.scene.at, next_period(self.scene.at, "month", 1));
        self.push("customer.subscription.created", subscription.render(VERSION), None);
        let invoice = self.scene.invoice(&subscription, "subscription_create", "paid");
        self.push("invoice.paid", invoice.render(VERSION), None);
    }

    fn checkout(&mut self, event_type: &str) -> Option<()> {
        let scene = self.scene;
        match event_type {
            "checkout.session.completed" => {
                self.customer_created();
                self.begin();
                self.push(event_type, scene.session("paid").render(VERSION), None);
            }
            "checkout.session.async_payment_succeeded" | "checkout.session.async_payment_failed" => {
                self.customer_created();
                let completed = scene.session("unpaid").render(VERSION);
                self.push_at("checkout.session.completed", scene.at.saturating_sub(1), completed, None);
                if event_type.ends_with("succeeded") {
                    self.begin();
                    self.push(event_type, scene.session("paid").render(VERSION), None);
                } else {
                    self.push(event_type, scene.session("unpaid").render(VERSION), None);
                }
            }
            "checkout.session.expired" => {
                let mut session = scene.session("unpaid");
                session.created = scene.at.saturating_sub(DAY);
                "expired".clone_into(&mut session.status);
                session.customer_email = session.email.take();
                (session.customer, session.subscription, session.invoice) = (None, None, None);
                self.push(event_type, session.render(VERSION), None);
            }
            _ => return None,
        }
        Some(())
    }

    fn subscription(&mut self, event_type: &str) -> Option<()> {
        let scene = self.scene;
        let (subscription, previous) = match event_type {
            "customer.subscription.created" => {
                self.customer_created();
                self.begin();
                return Some(());
            }
            "customer.subscription.updated" => {
                let subscription = scene.subscription("active");
                let mut before = subscription.clone();
                for item in &mut before.items {
                    *item = ItemSample {
                        price: "price_sample_before".to_owned(),
                        product: "prod_sample_before".to_owned(),
                        lookup_key: None,
                        nickname: None,
                        price_metadata: Metadata::new(),
                        unit_amount: 900,
                        ..item.clone()
                    };
                }
                let before = before.render(VERSION);
                let previous = json!({ "items": { "data": before["items"]["data"] }, "plan": before["plan"] });
                (subscription, Some(previous))
            }
            "customer.subscription.deleted" => {
                let mut subscription = scene.subscription("canceled");
                (subscription.canceled_at, subscription.ended_at) = (Some(scene.at), Some(scene.at));
                (subscription, None)
            }
            "customer.subscription.paused" => {
                let mut subscription = scene.subscription("paused");
                let trial_start = scene.period.map_or(scene.at.saturating_sub(14 * DAY), |(start, _)| start);
                (subscription.trial_start, subscription.trial_end) = (Some(trial_start), Some(scene.at));
                subscription.created = trial_start;
                (subscription, None)
            }
            "customer.subscription.resumed"
            | "customer.subscription.pending_update_applied"
            | "customer.subscription.pending_update_expired" => (scene.subscription("active"), None),
            "customer.subscription.trial_will_end" => {
                let mut subscription = scene.subscription("trialing");
                let (start, end) =
                    scene.period.unwrap_or((scene.at.saturating_sub(11 * DAY), scene.at.saturating_add(3 * DAY)));
                (subscription.created, subscription.billing_cycle_anchor) = (start, end);
                (subscription.trial_start, subscription.trial_end) = (Some(start), Some(end));
                subscription.set_period(start, end);
                (subscription, None)
            }
            _ => return None,
        };
        self.introduce();
        self.push(event_type, subscription.render(VERSION), previous);
        Some(())
    }

    fn invoice(&mut self, event_type: &str) -> Option<()> {
        let scene = self.scene;
        let reason = "subscription_cycle";
        let open = |attempts: i64| {
            let (subscription, before) = scene.renewed("past_due");
            let mut invoice = scene.invoice(&subscription, reason, "open");
            invoice.attempt_count = attempts;
            invoice.next_payment_attempt = Some(scene.at.saturating_add(if attempts > 0 { 3 * DAY } else { 3600 }));
            (invoice, subscription, before)
        };
        let ended = |status: &str| scene.invoice(&scene.renewed("active").0, reason, status);
        let (invoice, previous) = match event_type {
            "invoice.paid" | "invoice.payment_succeeded" => {
                let (subscription, before) = scene.renewed("active");
                self.introduce();
                self.push(
                    "customer.subscription.updated",
                    subscription.render(VERSION),
                    Some(json!({ "items": before })),
                );
                self.push(event_type, scene.invoice(&subscription, reason, "paid").render(VERSION), None);
                return Some(());
            }
            "invoice.payment_failed" => {
                let (invoice, subscription, before) = open(1);
                self.introduce();
                self.push(event_type, invoice.render(VERSION), None);
                let previous = json!({ "items": before, "status": "active" });
                self.push("customer.subscription.updated", subscription.render(VERSION), Some(previous));
                return Some(());
            }
            "invoice.payment_action_required" => (open(1).0, None),
            "invoice.finalized" => (open(0).0, None),
            "invoice.updated" => (open(1).0, Some(json!({ "attempt_count": 0, "attempted": false }))),
            "invoice.voided" => (ended("void"), None),
            "invoice.marked_uncollectible" => (ended("uncollectible"), None),
            "invoice.upcoming" => {
                let mut invoice = InvoiceSample::upcoming(&scene.subscription("active"), scene.at);
                invoice.customer_email = Some(scene.email.clone());
                (invoice, None)
            }
            _ => return None,
        };
        self.introduce();
        self.push(event_type, invoice.render(VERSION), previous);
        Some(())
    }

    fn customer(&mut self, event_type: &str) -> Option<()> {
        let scene = self.scene;
        let previous = match event_type {
            "customer.created" => {
                self.customer_created();
                return Some(());
            }
            "customer.updated" => Some(json!({ "name": null })),
            "customer.deleted" => None,
            _ => return None,
        };
        self.push(event_type, scene.customer(scene.at.saturating_sub(DAY)).render(VERSION), previous);
        Some(())
    }

    fn charge(&mut self, event_type: &str) -> Option<()> {
        let mut charge = self.scene.charge();
        match event_type {
            "charge.refunded" => {
                charge.amount_refunded = charge.amount;
                let previous = json!({ "amount_refunded": 0, "refunded": false });
                self.push(event_type, charge.render(VERSION), Some(previous));
            }
            "charge.dispute.created" => {
                let dispute = DisputeSample::new(self.scene.id("du"), &charge, self.scene.at);
                self.push(event_type, dispute.render(VERSION), None);
            }
            _ => return None,
        }
        Some(())
    }
}
