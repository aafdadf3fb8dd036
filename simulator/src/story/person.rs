//! What one person does.

use crate::{
    account::{
        Account, Collection, CustomerChange, FirstPayment, ItemChange, NewSession, NewSubscription, SubscriptionChange,
        When,
    },
    calendar::{DAY, HOUR},
    model::{Card, InvoiceStatus, Metadata, NoCard, PausedCollection, Status, Subscription},
    rng::Rng,
};

/// What is for sale.
#[derive(Debug, Default)]
pub(super) struct Shop {
    /// One for each paid plan, lowest first.
    pub(super) monthly: Vec<String>,
    pub(super) yearly: Vec<String>,
    /// No plan names it.
    pub(super) addon: String,
}

/// By what a server can know whose a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// The customer's `metadata.user_id`.
    Customer,
    /// The subscription's `metadata.user_id`.
    Subscription,
    /// The `client_reference_id` of the checkout.
    Reference,
    /// Nothing but the address.
    Email,
    /// By nothing: no user of the host.
    Nobody,
}

/// A person.
#[derive(Debug)]
pub(super) struct Person {
    user: Option<String>,
    email: String,
    link: Link,
    customer: Option<String>,
    subscriptions: Vec<String>,
    changes: u32,
}

impl Person {
    pub(super) fn new(user: Option<String>, email: String, link: Link) -> Self {
        Self { user, email, link, customer: None, subscriptions: Vec::new(), changes: 0 }
    }

    /// Does something. What Stripe refuses is not done: people try things that do not work.
    pub(super) fn act(&mut self, account: &mut Account, shop: &Shop, rng: &mut Rng) {
        let living = self
            .subscriptions
            .iter()
            .filter(|id| account.subscriptions.get(id).is_some_and(|subscription| !subscription.status.is_over()));
        let living: Vec<String> = living.cloned().collect();
        let Some(id) = rng.pick(&living) else {
            if rng.percent(85) {
                self.subscribe(account, shop, rng);
            }
            return;
        };
        let Some(subscription) = account.subscriptions.get(id).cloned() else { return };
        let _ = match subscription.status {
            Status::Incomplete => self.finish(account, &subscription, rng),
            Status::Paused if rng.percent(70) => {
                self.set_card(account, Card::Good);
                account.resume(id)
            }
            Status::PastDue | Status::Unpaid if rng.percent(50) => {
                self.set_card(account, Card::Good);
                Self::pay_open(account, &subscription)
            }
            _ => self.change_something(account, shop, &subscription, rng),
        };
    }

    fn metadata(&self) -> Metadata {
        self.user.iter().map(|user| ("user_id".to_owned(), user.clone())).collect()
    }

    fn customer(&mut self, account: &mut Account) -> String {
        if let Some(customer) = &self.customer {
            return customer.clone();
        }
        let id = account.create_customer(CustomerChange {
            email: Some(self.email.clone()),
            name: Some("Simulated Customer".to_owned()),
            metadata: if self.link == Link::Customer { self.metadata() } else { Metadata::new() },
            ..CustomerChange::default()
        });
        self.customer = Some(id.clone());
        id
    }

    fn set_card(&self, account: &mut Account, card: Card) {
        let Some(customer) = &self.customer else { return };
        let _ = account.update_customer(customer, CustomerChange { card: Some(card), ..CustomerChange::default() });
    }

    /// A new subscription, through a checkout or by the API.
    fn subscribe(&mut self, account: &mut Account, shop: &Shop, rng: &mut Rng) {
        let prices = if rng.percent(80) { &shop.monthly } else { &shop.yearly };
        let price = if rng.percent(3) { Some(&shop.addon) } else { rng.pick(prices) };
        let Some(price) = price.cloned() else { return };
        let mut metadata = if self.link == Link::Subscription { self.metadata() } else { Metadata::new() };
        // As hosts do, some write the user wherever they can.
        if self.link == Link::Reference && rng.percent(30) {
            metadata = self.metadata();
        }
        let checkout = match self.link {
            Link::Reference => true,
            Link::Email | Link::Nobody => false,
            Link::Customer | Link::Subscription => rng.percent(40),
        };
        self.set_card(account, Card::Good);
        if checkout {
            self.check_out(account, price, metadata, rng);
            return;
        }
        let trial_end = rng.percent(30).then(|| account.now() + *rng.pick(&[2, 7, 14, 30]).unwrap_or(&7) * DAY);
        let first_payment = if rng.percent(30) { FirstPayment::ByCustomer } else { FirstPayment::AtOnce };
        let no_card =
            *rng.pick(&[NoCard::CreateInvoice, NoCard::Pause, NoCard::Cancel]).unwrap_or(&NoCard::CreateInvoice);
        let customer = self.customer(account);
        let card = match rng.below(100) {
            0..12 if trial_end.is_some() => Card::None,
            12..18 => Card::NeedsAction,
            18..22 => Card::Declines,
            _ => Card::Good,
        };
        self.set_card(account, card);
        let made = account.create_subscription(NewSubscription {
            metadata,
            trial_end,
            first_payment,
            no_card,
            flexible: rng.percent(30).then_some(false),
            ..NewSubscription::of(&customer, &price)
        });
        self.subscriptions.extend(made);
    }

    fn check_out(&mut self, account: &mut Account, price: String, metadata: Metadata, rng: &mut Rng) {
        if self.link != Link::Reference {
            self.customer(account);
        }
        let delayed = rng.percent(15);
        let session = account.create_session(NewSession {
            customer: self.customer.clone(),
            customer_email: self.customer.is_none().then(|| self.email.clone()),
            reference: self.user.clone(),
            metadata: Metadata::new(),
            subscription_metadata: metadata,
            line_items: vec![(price, 1)],
            trial_days: if rng.percent(20) { 14 } else { 0 },
        });
        // Some look at the page and go away.
        let Ok(session) = session else { return };
        if rng.percent(8) {
            return;
        }
        if let Ok(made) = account.complete_session(&session, delayed) {
            self.customer = account.subscriptions.get(&made).map(|subscription| subscription.customer.clone());
            self.subscriptions.push(made);
        }
    }

    /// Makes the first payment that is still open, or does not.
    fn finish(&self, account: &mut Account, subscription: &Subscription, rng: &mut Rng) -> Done {
        if rng.percent(70) {
            self.set_card(account, Card::Good);
            return Self::pay_open(account, subscription);
        }
        Ok(())
    }

    fn pay_open(account: &mut Account, subscription: &Subscription) -> Done {
        let open = |id: &&String| account.invoices.get(id).is_some_and(|invoice| invoice.status == InvoiceStatus::Open);
        let newest = subscription.invoices.iter().rev().find(open).cloned();
        newest.map_or(Ok(()), |invoice| account.pay_invoice(&invoice))
    }

    fn change_something(
        &mut self,
        account: &mut Account,
        shop: &Shop,
        subscription: &Subscription,
        rng: &mut Rng,
    ) -> Done {
        let id = subscription.id.as_str();
        let update = |account: &mut Account, change| account.update_subscription(id, change);
        let first = subscription.items.first().map(|item| item.id.clone());
        let item = |change: ItemChange| SubscriptionChange { items: vec![change], ..SubscriptionChange::default() };
        match rng.below(100) {
            0..16 => {
                let prices = if rng.percent(85) { &shop.monthly } else { &shop.yearly };
                let price = rng.pick(prices).cloned();
                update(account, item(ItemChange { id: first, price, ..ItemChange::default() }))
            }
            16..22 => {
                let quantity = Some(rng.between(1, 9));
                update(account, item(ItemChange { id: first, quantity, ..ItemChange::default() }))
            }
            22..30 => {
                let price = if rng.percent(50) { Some(shop.addon.clone()) } else { rng.pick(&shop.monthly).cloned() };
                let new = ItemChange { price, quantity: Some(rng.between(1, 3)), ..ItemChange::default() };
                if subscription.items.len() < 5 { update(account, item(new)) } else { Ok(()) }
            }
            30..34 if subscription.items.len() > 1 => {
                let last = subscription.items.last().map(|item| item.id.clone());
                update(account, item(ItemChange { id: last, deleted: true, ..ItemChange::default() }))
            }
            34..42 => account.cancel(id, if rng.percent(50) { When::PeriodEnd } else { When::PortalPeriodEnd }),
            42..46 => account.cancel(id, When::At(account.now() + rng.between(HOUR, 40 * DAY))),
            46..52 => account.cancel(id, When::Never),
            52..56 => account.cancel(id, When::Now),
            56..60 => {
                let behavior = *rng.pick(&["keep_as_draft", "mark_uncollectible", "void"]).unwrap_or(&"void");
                let resumes_at = rng.percent(60).then(|| account.now() + rng.between(DAY, 30 * DAY));
                let pause = PausedCollection { behavior: behavior.to_owned(), resumes_at };
                update(
                    account,
                    SubscriptionChange { collection: Collection::Pause(pause), ..SubscriptionChange::default() },
                )
            }
            60..63 if subscription.pause_collection.is_some() => {
                update(account, SubscriptionChange { collection: Collection::GoOn, ..SubscriptionChange::default() })
            }
            63..66 => account.pause(id),
            66..76 => {
                self.set_card(
                    account,
                    *rng.pick(&[Card::Declines, Card::NeedsAction, Card::None]).unwrap_or(&Card::None),
                );
                Ok(())
            }
            76..80 => {
                self.subscribe(account, shop, rng);
                Ok(())
            }
            80..82 => self.move_away(account),
            82..85 => self.money_back(account, rng),
            85 if self.link != Link::Email => self.leave(account),
            86..89 => update(account, SubscriptionChange { end_trial: true, ..SubscriptionChange::default() }),
            89 => Self::write_off(account, subscription),
            _ => {
                // One click after the other.
                for _ in 0..rng.between(2, 4) {
                    self.changes += 1;
                    let metadata = [("note".to_owned(), self.changes.to_string())].into();
                    let quantity = Some(rng.between(1, 9));
                    let items = vec![ItemChange { id: first.clone(), quantity, ..ItemChange::default() }];
                    update(account, SubscriptionChange { items, metadata, ..SubscriptionChange::default() })?;
                }
                Ok(())
            }
        }
    }

    /// Another address, where nothing depends on it.
    fn move_away(&mut self, account: &mut Account) -> Done {
        let Some(customer) = self.customer.clone().filter(|_| self.link != Link::Email) else { return Ok(()) };
        self.changes += 1;
        let email = Some(format!("moved{}-{}", self.changes, self.email));
        account.update_customer(&customer, CustomerChange { email, ..CustomerChange::default() })
    }

    fn money_back(&self, account: &mut Account, rng: &mut Rng) -> Done {
        let Some(customer) = &self.customer else { return Ok(()) };
        let theirs = account.charges.iter().rev().find(|charge| charge.customer == *customer && charge.paid);
        let Some((charge, amount)) = theirs.map(|charge| (charge.id.clone(), charge.amount)) else { return Ok(()) };
        if rng.percent(25) {
            account.dispute(&charge);
            return Ok(());
        }
        account.refund(&charge, rng.percent(50).then_some(amount / 2))
    }

    /// The customer is deleted; whoever comes back is another.
    fn leave(&mut self, account: &mut Account) -> Done {
        self.customer.take().map_or(Ok(()), |customer| account.delete_customer(&customer))
    }

    /// The host gives up an open invoice, or takes it back.
    fn write_off(account: &mut Account, subscription: &Subscription) -> Done {
        let open = |id: &&String| account.invoices.get(id).is_some_and(|invoice| invoice.status == InvoiceStatus::Open);
        let Some(invoice) = subscription.invoices.iter().rev().find(open).cloned() else { return Ok(()) };
        if subscription.status == Status::PastDue {
            account.mark_uncollectible(&invoice)
        } else {
            account.void_invoice(&invoice)
        }
    }
}

/// What Stripe says to it.
type Done = Result<(), crate::account::Refusal>;
