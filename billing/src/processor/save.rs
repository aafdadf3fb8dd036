//! Writes back what changed in a [`World`]: one set statement for each table, one row for each key.

use entity::{
    Time, email_outbox, entitlement_changes,
    enums::EmailStatus,
    ids::{CustomerId, SubscriptionId, UserId},
    invoices, stripe_customers, subscriptions,
};
use sea_orm::{ConnectionTrait, DbErr};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    apply::{Change, QueuedEmail},
    catalog::Catalog,
    facts::{Customer, Invoice, Link, Subscription},
    store::{
        inbox,
        rowset::{OnConflict, text_in, upsert},
    },
    world::World,
};

/// Writes every change, and lets go on what waited for an owner.
pub(crate) async fn save(
    db: &impl ConnectionTrait,
    world: &World,
    changes: &[Change],
    emails: &[QueuedEmail],
    catalog: &Catalog,
    now: Time,
) -> Result<(), DbErr> {
    let dirty = &world.dirty;
    let customers: Vec<_> =
        dirty.customers.iter().filter_map(|id| world.customer(id)).map(|c| customer_row(c, now)).collect();
    upsert::<stripe_customers::Entity>(db, &customers, OnConflict::Replace).await?;
    let subscriptions: Vec<_> = dirty
        .subscriptions
        .iter()
        .filter_map(|id| world.subscription(id))
        .map(|s| subscription_row(s, world, catalog, now))
        .collect();
    upsert::<subscriptions::Entity>(db, &subscriptions, OnConflict::Replace).await?;
    let invoices: Vec<_> =
        dirty.invoices.iter().filter_map(|id| world.invoice(id)).map(|i| invoice_row(i, now)).collect();
    upsert::<invoices::Entity>(db, &invoices, OnConflict::Replace).await?;

    let users: Vec<UserRow<'_>> = dirty.users.iter().filter_map(|id| world.user(*id)).map(UserRow::of).collect();
    if !users.is_empty() {
        inbox::save_users(db, &users).await?;
    }
    let changes: Vec<_> = changes.iter().map(|change| change_row(change, now)).collect::<Result<_, _>>()?;
    upsert::<entitlement_changes::Entity>(db, &changes, OnConflict::KeepWhereEqual("id")).await?;
    let emails: Vec<_> = emails.iter().map(|email| email_row(email, now)).collect();
    upsert::<email_outbox::Entity>(db, &emails, OnConflict::KeepWhereEqual("dedupe_key")).await?;

    if !dirty.moved.is_empty() {
        follow_owner(db, dirty.moved.iter().map(ToString::to_string)).await?;
    }
    if !dirty.released.is_empty() {
        release_parked(db, dirty.released.iter().map(ToString::to_string)).await?;
    }
    Ok(())
}

/// Invoices belong to whom their subscription belongs; those not loaded are set here.
async fn follow_owner(db: &impl ConnectionTrait, subscriptions: impl Iterator<Item = String>) -> Result<(), DbErr> {
    use sea_orm::sea_query::{Expr, Query};
    let backend = db.get_database_backend();
    let owner = "(SELECT s.user_id FROM subscriptions AS s WHERE s.id = invoices.subscription_id)";
    let update = Query::update()
        .table(invoices::Entity)
        .value(invoices::Column::UserId, Expr::cust(owner))
        .and_where(text_in(backend, "subscription_id", subscriptions))
        .and_where(Expr::cust(format!("user_id IS DISTINCT FROM {owner}")))
        .take();
    db.execute(&update).await?;
    Ok(())
}

/// Makes due at once what waited for these subscriptions to have an owner.
async fn release_parked(db: &impl ConnectionTrait, subscriptions: impl Iterator<Item = String>) -> Result<(), DbErr> {
    use entity::stripe_webhooks::{Column, Entity};
    use sea_orm::{
        ColumnTrait,
        sea_query::{Expr, Query},
    };
    let backend = db.get_database_backend();
    let update = Query::update()
        .table(Entity)
        .value(Column::NextAttemptAt, Expr::cust(inbox::now(backend)))
        .and_where(text_in(backend, "waits_for", subscriptions))
        .and_where(Column::ProcessingStatus.eq(entity::enums::ProcessingStatus::Pending))
        .take();
    db.execute(&update).await?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct UserRow<'a> {
    id: UserId,
    tier: &'a str,
    status: &'a str,
    access: bool,
    customer: Option<&'a str>,
    subscription: Option<&'a str>,
    current_period_end: Option<Time>,
    cancel_at: Option<Time>,
    usage_limit: Option<i64>,
    entitlement_changes_at: Option<Time>,
}

impl<'a> UserRow<'a> {
    fn of(user: &'a crate::world::User) -> Self {
        let projection = &user.projection;
        let entitlement = &projection.entitlement;
        Self {
            id: user.id,
            tier: &entitlement.tier,
            status: &entitlement.status,
            access: entitlement.access,
            customer: projection.customer.as_ref().map(CustomerId::as_str),
            subscription: projection.subscription.as_ref().map(SubscriptionId::as_str),
            current_period_end: entitlement.current_period_end,
            cancel_at: entitlement.cancel_at,
            usage_limit: entitlement.limit,
            entitlement_changes_at: user.ahead.changes_at,
        }
    }
}

struct LinkColumns {
    user: Option<UserId>,
    evidence: Option<entity::enums::LinkEvidence>,
    at: Option<Time>,
    event_id: Option<String>,
}

fn link_columns(link: Option<&Link>) -> LinkColumns {
    LinkColumns {
        user: link.map(|link| link.user),
        evidence: link.map(|link| link.evidence),
        at: link.map(|link| link.stamp.at),
        event_id: link.map(|link| link.stamp.event_id.clone()),
    }
}

fn customer_row(customer: &Customer, now: Time) -> stripe_customers::Model {
    let link = link_columns(customer.link.as_ref());
    stripe_customers::Model {
        id: customer.id.clone(),
        user_id: customer.owner,
        link_user_id: link.user,
        link_evidence: link.evidence,
        link_at: link.at,
        link_event_id: link.event_id,
        email: customer.email.clone(),
        deleted_at: customer.deleted_at,
        stripe_created_at: customer.made_at,
        version_rank: customer.version.0,
        version_at: customer.version.1.at,
        version_event_id: Some(customer.version.1.event_id.clone()),
        created_at: customer.stored_at.unwrap_or(now),
        updated_at: now,
    }
}

fn subscription_row(subscription: &Subscription, world: &World, catalog: &Catalog, now: Time) -> subscriptions::Model {
    let link = link_columns(subscription.link.as_ref());
    let snapshot = &subscription.snapshot;
    let standing = world.standing(subscription);
    let item = standing.deciding_item(catalog).0;
    let text = |of: fn(&crate::facts::Item) -> &Option<String>| item.and_then(|item| of(item).clone());
    subscriptions::Model {
        id: subscription.id.clone(),
        user_id: subscription.owner,
        link_user_id: link.user,
        link_evidence: link.evidence,
        link_at: link.at,
        link_event_id: link.event_id,
        stripe_customer_id: subscription.customer.as_ref().map(ToString::to_string),
        status: snapshot.status.clone(),
        items: serde_json::json!(snapshot.items),
        price_id: text(|item| &item.price_id),
        product_id: text(|item| &item.product_id),
        lookup_key: text(|item| &item.lookup_key),
        quantity: item.and_then(|item| item.quantity),
        currency: snapshot.currency.clone(),
        interval: text(|item| &item.interval),
        interval_count: item.and_then(|item| item.interval_count),
        billing_cycle_anchor: snapshot.billing_cycle_anchor,
        current_period_start: snapshot.period_start,
        current_period_end: snapshot.period_end,
        trial_start: snapshot.trial_start,
        trial_end: snapshot.trial_end,
        cancel_at: snapshot.cancel_at,
        cancel_at_period_end: snapshot.cancel_at_period_end,
        canceled_at: snapshot.canceled_at,
        ended_at: snapshot.ended_at,
        pause_collection: snapshot.pause_collection.clone(),
        livemode: snapshot.livemode,
        metadata: serde_json::json!(snapshot.metadata),
        rank: subscription.version.rank.number(),
        version_at: subscription.version.at,
        version_kind: subscription.version.kind.number(),
        version_event_id: subscription.version.event_id.clone(),
        needs_refresh: subscription.needs_refresh,
        stripe_created_at: snapshot.made_at,
        created_at: subscription.stored_at.unwrap_or(now),
        updated_at: now,
    }
}

fn invoice_row(invoice: &Invoice, now: Time) -> invoices::Model {
    let facts = &invoice.snapshot;
    invoices::Model {
        id: invoice.id.clone(),
        user_id: invoice.owner,
        stripe_customer_id: invoice.customer.as_ref().map(ToString::to_string),
        subscription_id: invoice.subscription.as_ref().map(ToString::to_string),
        number: facts.number.clone(),
        status: invoice.status,
        billing_reason: invoice.billing_reason.clone(),
        currency: facts.currency.clone(),
        amount_due: facts.amount_due,
        amount_paid: facts.amount_paid,
        attempt_count: facts.attempt_count,
        next_payment_attempt: facts.next_payment_attempt,
        hosted_invoice_url: facts.hosted_invoice_url.clone(),
        invoice_pdf: facts.invoice_pdf.clone(),
        period_start: facts.period_start,
        period_end: facts.period_end,
        first_failed_at: invoice.first_failed_at,
        failed_at: invoice.failed_at,
        paid_at: invoice.paid_at,
        version_status: invoice.version.0,
        version_at: invoice.version.1.at,
        version_event_id: invoice.version.1.event_id.clone(),
        stripe_created_at: invoice.made_at,
        created_at: invoice.stored_at.unwrap_or(now),
        updated_at: now,
    }
}

fn change_row(change: &Change, now: Time) -> Result<entitlement_changes::Model, DbErr> {
    let json = |entitlement| serde_json::to_value(entitlement).map_err(|error| DbErr::Json(error.to_string()));
    Ok(entitlement_changes::Model {
        id: Uuid::now_v7(),
        user_id: change.user,
        changed_at: now,
        source: change.source,
        event_id: change.event_id.clone(),
        reconciliation_id: change.reconciliation,
        before: json(&change.before)?,
        after: json(&change.after)?,
        reason: change.reason.clone(),
        number: None,
    })
}

fn email_row(email: &QueuedEmail, now: Time) -> email_outbox::Model {
    email_outbox::Model {
        id: Uuid::now_v7(),
        user_id: email.user,
        kind: email.kind,
        dedupe_key: email.dedupe_key.clone(),
        data: email.data.clone(),
        status: EmailStatus::Pending,
        attempts: 0,
        next_attempt_at: now,
        claimed_by: None,
        claim_token: None,
        unknown_outcomes: 0,
        error: None,
        sent_at: None,
        created_at: now,
    }
}
