//! Fills a [`World`] with everything a set of events can touch: a few set queries, whatever the number of events.

use std::collections::BTreeSet;

use entity::{
    Time,
    enums::LinkEvidence,
    ids::{CustomerId, InvoiceId, SubscriptionId, UserId},
    invoices, stripe_customers, subscriptions, tier_overrides, users,
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::LockType,
};
use sha2::{Digest, Sha256};

use crate::{
    events::Told,
    facts::{Customer, Invoice, InvoiceSnapshot, Item, Kind, Link, Rank, Snapshot, Stamp, Subscription, Version},
    projection::{Entitlement, Override, Projection},
    store::{
        inbox::newest_invoices,
        rowset::{email_column, text_in, uuid_in},
    },
    usage::{OpenWindow, Window},
    world::{Ahead, User, World, email_key},
};

/// What to load.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needs {
    pub(crate) users: BTreeSet<UserId>,
    pub(crate) emails: BTreeSet<String>,
    pub(crate) customers: BTreeSet<CustomerId>,
    pub(crate) subscriptions: BTreeSet<SubscriptionId>,
    pub(crate) invoices: BTreeSet<InvoiceId>,
    /// Subscriptions told of without their customer.
    pub(crate) without_customer: BTreeSet<SubscriptionId>,
}

impl Needs {
    /// What applying an event needs.
    pub(crate) fn add(&mut self, told: &Told) {
        if let Some(customer) = &told.customer {
            self.customers.insert(customer.id.clone());
            self.users.extend(customer.link.as_ref().map(|link| link.user));
            if let Some((_, Some(email))) = &customer.email {
                self.emails.insert(email_key(email));
            }
        }
        if let Some(subscription) = &told.subscription {
            self.subscriptions.insert(subscription.id.clone());
            if subscription.customer.is_none() {
                self.without_customer.insert(subscription.id.clone());
            }
            self.customers.extend(subscription.customer.clone());
            self.users.extend(subscription.link.as_ref().map(|link| link.user));
        }
        if let Some(invoice) = &told.invoice {
            self.invoices.insert(invoice.id.clone());
            self.customers.extend(invoice.customer.clone());
        }
        self.customers.extend(told.about.clone());
    }

    /// One number for each key that another transaction must keep off.
    pub(crate) fn lock_keys(&self) -> Vec<i64> {
        let users = self.users.iter().map(|id| lock_key(&id.to_string()));
        let customers = self.customers.iter().map(|id| lock_key(id.as_str()));
        let emails = self.emails.iter().map(|email| lock_key(email));
        // A subscription belongs to one customer, and that one is locked.
        let others = self.without_customer.iter().map(|id| lock_key(id.as_str()));
        users.chain(customers).chain(emails).chain(others).collect()
    }
}

/// The number under which a text is locked. Two texts with one number wait for each other, and no more.
pub(crate) fn lock_key(text: &str) -> i64 {
    let hash = Sha256::digest(text);
    i64::from_be_bytes(std::array::from_fn(|i| hash[i]))
}

/// Whether what is loaded is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Within a transaction that may write: users are locked before what belongs to them is read.
    Write,
    /// To be looked at only.
    Read,
}

/// Loads everything that the events' consequences can reach.
///
/// For writing, the caller first locks [`Needs::lock_keys`], since the rows of what the events name may not exist yet; here the users' rows are
/// locked as it comes out whose they are. Keys always before rows: so two who wait do not wait for each other. What belongs to a
/// locked user is read after the lock was given, so no projection is computed from what another transaction is about to change.
pub(crate) async fn load(db: &impl ConnectionTrait, needs: &Needs, access: Access) -> Result<World, DbErr> {
    let backend = db.get_database_backend();

    let mut world = World::default();
    let mut found_users: BTreeSet<UserId> = BTreeSet::new();
    let mut found_customers: BTreeSet<CustomerId> = BTreeSet::new();
    let mut found_subscriptions: BTreeSet<SubscriptionId> = BTreeSet::new();
    let mut users: BTreeSet<UserId> = needs.users.clone();
    let mut emails = needs.emails.clone();
    let mut customers = needs.customers.clone();
    let mut seeds = needs.subscriptions.clone();

    // Each round follows the ties of what the last one found; two or three rounds reach everything.
    loop {
        let mut round_subscriptions = Vec::new();
        if !seeds.is_empty() {
            let ids = std::mem::take(&mut seeds).into_iter().map(|id| id.to_string());
            round_subscriptions = subscriptions::Entity::find().filter(text_in(backend, "id", ids)).all(db).await?;
        }
        for row in &round_subscriptions {
            users.extend(row.user_id.into_iter().chain(row.link_user_id));
            customers.extend(row.stripe_customer_id.as_ref().and_then(|id| CustomerId::parse(id.clone()).ok()));
        }
        let new_customers: Vec<String> =
            customers.iter().filter(|id| !found_customers.contains(*id)).map(ToString::to_string).collect();
        let mut round_customers = Vec::new();
        if !new_customers.is_empty() {
            round_customers = stripe_customers::Entity::find()
                .filter(text_in(backend, "id", new_customers.iter().cloned()))
                .all(db)
                .await?;
        }
        for row in &round_customers {
            users.extend(row.user_id.into_iter().chain(row.link_user_id));
            if row.link_user_id.is_none() {
                emails.extend(row.email.as_deref().map(email_key));
            }
        }
        found_customers.extend(customers.iter().cloned());

        let new_users: Vec<UserId> = users.difference(&found_users).copied().collect();
        let mut any = Condition::any();
        if !new_users.is_empty() {
            any = any.add(uuid_in(backend, "id", new_users.iter().map(|id| id.0)));
        }
        if !emails.is_empty() {
            any = any.add(text_in(backend, email_column(backend), std::mem::take(&mut emails)));
        }
        if !new_customers.is_empty() {
            any = any.add(text_in(backend, "subscription_stripe_customer_id", new_customers));
        }
        let mut round_users = Vec::new();
        if !any.is_empty() {
            let mut select = users::Entity::find().filter(any).order_by_asc(users::Column::Id);
            if access == Access::Write {
                select = select.lock(LockType::NoKeyUpdate);
            }
            round_users = select.all(db).await?;
        }
        found_users.extend(new_users);
        round_users.retain(|row| world.user(row.id).is_none());
        let fresh: Vec<UserId> = round_users.iter().map(|row| row.id).collect();
        found_users.extend(fresh.iter().copied());
        for row in round_users {
            let user = user(row);
            customers.extend(user.carried.clone());
            world.insert_user(user);
        }

        // Everything else that belongs to these users and customers.
        if !fresh.is_empty() {
            let theirs = stripe_customers::Entity::find()
                .filter(uuid_in(backend, "link_user_id", fresh.iter().map(|id| id.0)))
                .all(db)
                .await?;
            round_customers.extend(theirs);
            let given = tier_overrides::Entity::find()
                .filter(uuid_in(backend, "user_id", fresh.iter().map(|id| id.0)))
                .all(db)
                .await?;
            for row in given {
                world.set_override(row.user_id, Some(tier_override(row)));
            }
        }
        let mut of = Condition::any();
        if !fresh.is_empty() {
            of = of.add(uuid_in(backend, "user_id", fresh.iter().map(|id| id.0)));
        }
        let round_customer_ids: Vec<String> = round_customers.iter().map(|row| row.id.to_string()).collect();
        if !round_customer_ids.is_empty() {
            of = of.add(text_in(backend, "stripe_customer_id", round_customer_ids));
        }
        if !of.is_empty() {
            round_subscriptions.extend(subscriptions::Entity::find().filter(of).all(db).await?);
        }
        for row in round_customers {
            found_customers.insert(row.id.clone());
            if world.customer(&row.id).is_none() {
                world.insert_customer(customer(row));
            }
        }
        for row in round_subscriptions {
            if found_subscriptions.insert(row.id.clone()) {
                users.extend(row.user_id.into_iter().chain(row.link_user_id));
                customers.extend(row.stripe_customer_id.as_ref().and_then(|id| CustomerId::parse(id.clone()).ok()));
                world.insert_subscription(subscription(row)?);
            }
        }
        customers.retain(|id| !found_customers.contains(id));
        if users.is_subset(&found_users) && customers.is_empty() {
            break;
        }
    }

    // Two queries: joined by OR, the planner would read every invoice there is.
    if !found_subscriptions.is_empty() {
        let newest = newest_invoices(backend, found_subscriptions.iter().map(ToString::to_string).collect());
        for row in invoices::Entity::find().filter(newest).all(db).await? {
            world.insert_invoice(invoice(row));
        }
    }
    if !needs.invoices.is_empty() {
        let named = text_in(backend, "id", needs.invoices.iter().map(ToString::to_string));
        for row in invoices::Entity::find().filter(named).all(db).await? {
            world.insert_invoice(invoice(row));
        }
    }
    world.take_host_words();
    Ok(world)
}

/// What concerns a user who is new, or has a new address.
pub(crate) async fn needs_of_user(db: &impl ConnectionTrait, id: UserId, email: &str) -> Result<Needs, DbErr> {
    let backend = db.get_database_backend();
    let mut needs = Needs::default();
    needs.users.insert(id);
    needs.emails.insert(email_key(email));
    let named = stripe_customers::Entity::find()
        .filter(Condition::any().add(stripe_customers::Column::LinkUserId.eq(id)).add(text_in(
            backend,
            email_column(backend),
            [email_key(email)],
        )))
        .all(db)
        .await?;
    needs.customers.extend(named.into_iter().map(|row| row.id));
    let carried = users::Entity::find_by_id(id).one(db).await?.and_then(|row| row.subscription_stripe_customer_id);
    needs.customers.extend(carried.and_then(|id| CustomerId::parse(id).ok()));
    let claimed = subscriptions::Entity::find().filter(subscriptions::Column::LinkUserId.eq(id)).all(db).await?;
    needs.subscriptions.extend(claimed.into_iter().map(|row| row.id));
    Ok(needs)
}

pub(crate) fn user(row: users::Model) -> User {
    let open = open_window(&row);
    let customer = row.subscription_stripe_customer_id.and_then(|id| CustomerId::parse(id).ok());
    User {
        ahead: Ahead { open, changes_at: row.entitlement_changes_at, rolls_at: row.rolls_at },
        id: row.id,
        email: row.email,
        carried: customer.clone(),
        projection: Projection {
            entitlement: Entitlement {
                tier: row.subscription_tier,
                status: row.subscription_status,
                access: row.subscription_access,
                limit: row.usage_limit,
                current_period_end: row.subscription_current_period_end,
                cancel_at: row.subscription_cancel_at,
            },
            customer,
            subscription: row.subscription_stripe_subscription_id.and_then(|id| SubscriptionId::parse(id).ok()),
        },
    }
}

/// The window that a user's row mirrors.
pub(crate) fn open_window(row: &users::Model) -> Option<OpenWindow> {
    let Ok(source) = row.usage_source.as_deref()?.parse();
    let window = Window { start: row.usage_period_start?, end: row.usage_period_end? };
    Some(OpenWindow { source, window, provisional: row.usage_provisional })
}

fn tier_override(row: tier_overrides::Model) -> Override {
    let tier_overrides::Model { user_id: _, tier, until, reason, by, created_at } = row;
    Override { tier, until, reason, by, created_at }
}

fn link(
    user: Option<UserId>,
    evidence: Option<LinkEvidence>,
    at: Option<Time>,
    event_id: Option<String>,
) -> Option<Link> {
    let stamp = Stamp { at: at.unwrap_or(Time::UNIX_EPOCH), event_id: event_id.unwrap_or_default() };
    Some(Link { evidence: evidence?, stamp, user: user? })
}

fn customer(row: stripe_customers::Model) -> Customer {
    Customer {
        link: link(row.link_user_id, row.link_evidence, row.link_at, row.link_event_id),
        id: row.id,
        owner: row.user_id,
        email: row.email,
        version: (row.version_rank, Stamp { at: row.version_at, event_id: row.version_event_id.unwrap_or_default() }),
        deleted_at: row.deleted_at,
        made_at: row.stripe_created_at,
        stored_at: Some(row.created_at),
    }
}

pub(crate) fn subscription(row: subscriptions::Model) -> Result<Subscription, DbErr> {
    let unreadable =
        |what: &str, error: &serde_json::Error| DbErr::Json(format!("{what} of subscription {}: {error}", row.id));
    let items: Vec<Item> = serde_json::from_value(row.items).map_err(|error| unreadable("items", &error))?;
    let metadata = serde_json::from_value(row.metadata).map_err(|error| unreadable("metadata", &error))?;
    Ok(Subscription {
        link: link(row.link_user_id, row.link_evidence, row.link_at, row.link_event_id),
        owner: row.user_id,
        customer: row.stripe_customer_id.and_then(|id| CustomerId::parse(id).ok()),
        snapshot: Snapshot {
            status: row.status,
            items,
            currency: row.currency,
            billing_cycle_anchor: row.billing_cycle_anchor,
            period_start: row.current_period_start,
            period_end: row.current_period_end,
            trial_start: row.trial_start,
            trial_end: row.trial_end,
            cancel_at: row.cancel_at,
            cancel_at_period_end: row.cancel_at_period_end,
            canceled_at: row.canceled_at,
            ended_at: row.ended_at,
            pause_collection: row.pause_collection,
            metadata,
            livemode: row.livemode,
            made_at: row.stripe_created_at,
        },
        version: Version {
            rank: Rank::from_number(row.rank),
            at: row.version_at,
            kind: Kind::from_number(row.version_kind),
            event_id: row.version_event_id,
        },
        needs_refresh: row.needs_refresh,
        stored_at: Some(row.created_at),
        id: row.id,
    })
}

fn invoice(row: invoices::Model) -> Invoice {
    Invoice {
        id: row.id,
        owner: row.user_id,
        customer: row.stripe_customer_id.and_then(|id| CustomerId::parse(id).ok()),
        subscription: row.subscription_id.and_then(|id| SubscriptionId::parse(id).ok()),
        status: row.status,
        billing_reason: row.billing_reason,
        first_failed_at: row.first_failed_at,
        failed_at: row.failed_at,
        paid_at: row.paid_at,
        made_at: row.stripe_created_at,
        snapshot: InvoiceSnapshot {
            number: row.number,
            currency: row.currency,
            amount_due: row.amount_due,
            amount_paid: row.amount_paid,
            attempt_count: row.attempt_count,
            next_payment_attempt: row.next_payment_attempt,
            hosted_invoice_url: row.hosted_invoice_url,
            invoice_pdf: row.invoice_pdf,
            period_start: row.period_start,
            period_end: row.period_end,
        },
        version: (row.version_status, Stamp { at: row.version_at, event_id: row.version_event_id }),
        stored_at: Some(row.created_at),
    }
}
