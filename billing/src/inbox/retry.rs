//! Another try, on a person's word. An event whose payload was emptied ([`crate::retention`]) is first fetched from Stripe again.

use entity::{
    Time,
    enums::{EventSource, ProcessingStatus},
    ids::EventId,
    stripe_webhooks::{Column, Entity},
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, ExprTrait, FromQueryResult, PaginatorTrait,
    QueryFilter, QuerySelect,
    sea_query::{Expr, Query},
};
use serde::Deserialize;

use super::{Arrival, IntakeRules, records::Filter};
use crate::{
    db::Db,
    events, json_text,
    store::{
        inbox::{now, restore_payload},
        rowset::text_in,
    },
    stripe::{Lane, Resource, Stripe, StripeError},
};

/// Why an event cannot be tried again.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// There is none.
    #[error("no event {0} in the inbox; `trueup webhooks list` shows what there is")]
    Unknown(EventId),
    /// A processor has it.
    #[error("event {0} is being applied right now; look again in a moment")]
    Busy(EventId),
    /// Nobody vouches for it.
    #[error(
        "event {0} was put into the table without a verified signature and is never applied; let Stripe send it again"
    )]
    Unverified(EventId),
    /// It is not ours to apply.
    #[error("event {id} is still not ours to apply: {reason}")]
    NotOurs {
        /// The event.
        id: EventId,
        /// As when it was skipped.
        reason: String,
    },
    /// Its payload was emptied, and cannot be had again.
    #[error(
        "the payload of event {id} was emptied long after it was applied, and {why}; to bring its user up to date, refresh the user instead"
    )]
    Emptied {
        /// The event.
        id: EventId,
        /// Why it cannot be had again.
        why: String,
    },
    /// Its payload was emptied, and Stripe did not give it now.
    #[error("the payload of event {id} was emptied, and could not be fetched again: {source}")]
    Stripe {
        /// The event.
        id: EventId,
        /// What Stripe says.
        source: StripeError,
    },
    /// The database.
    #[error("the inbox could not be reached: {0}")]
    Database(#[from] DbErr),
}

/// Makes an event due at once, with all its attempts before it. A completed one may be applied again: it ends as it did. One whose payload was emptied is
/// fetched from Stripe before (node `Events.d.ts`: for 30 days), where there is an API.
pub async fn retry(db: &Db, id: &EventId, rules: &IntakeRules, stripe: Option<&dyn Stripe>) -> Result<(), RetryError> {
    let row = find(db, id).await?;
    if !row.signature_verified {
        return Err(RetryError::Unverified(id.clone()));
    }
    if let Arrival::Skip(skip) = rules.decide(&row.event_type, Some(row.livemode), row.account.as_deref()) {
        return Err(RetryError::NotOurs { id: id.clone(), reason: skip.to_string() });
    }
    if row.payload_emptied_at.is_none() {
        let again = requeue(db, Condition::all().add(Column::EventId.eq(id.clone()))).await?;
        if again > 0 {
            return Ok(());
        }
        // It may have been emptied this moment.
        if find(db, id).await?.payload_emptied_at.is_none() {
            return Err(RetryError::Busy(id.clone()));
        }
    }
    let payload = fetch(id, &row.event_type, stripe).await?;
    let tx = db.write().await?;
    restore_payload(&*tx, id, &payload.text, payload.bytes).await?;
    let again = tx.execute(&requeue_statement(db, Condition::all().add(Column::EventId.eq(id.clone())))).await?;
    tx.commit().await?;
    if again.rows_affected() == 0 { Err(RetryError::Busy(id.clone())) } else { Ok(()) }
}

#[derive(FromQueryResult)]
struct EventRow {
    event_type: String,
    signature_verified: bool,
    livemode: bool,
    account: Option<String>,
    payload_emptied_at: Option<Time>,
}

async fn find(db: &Db, id: &EventId) -> Result<EventRow, RetryError> {
    let row: Option<EventRow> = Entity::find()
        .select_only()
        .columns([
            Column::EventType,
            Column::SignatureVerified,
            Column::Livemode,
            Column::Account,
            Column::PayloadEmptiedAt,
        ])
        .filter(Column::EventId.eq(id.clone()))
        .into_model()
        .one(db.reader())
        .await?;
    row.ok_or_else(|| RetryError::Unknown(id.clone()))
}

/// A payload as Stripe gave it again.
struct Payload {
    text: String,
    bytes: i64,
}

/// The event once more. No transaction is open here.
async fn fetch(id: &EventId, event_type: &str, stripe: Option<&dyn Stripe>) -> Result<Payload, RetryError> {
    #[derive(Deserialize)]
    struct Envelope {
        id: String,
        #[serde(rename = "type")]
        event_type: String,
    }
    let emptied = |why: &str| RetryError::Emptied { id: id.clone(), why: why.to_owned() };
    let Some(stripe) = stripe else {
        return Err(emptied(
            "without STRIPE_SECRET_KEY it cannot be fetched again: set the key (Stripe keeps events for 30 days)",
        ));
    };
    let fetched = match stripe.get(&Resource::Event(id.clone()), Lane::Live).await {
        Ok(fetched) => fetched,
        Err(StripeError::Missing { .. }) => {
            return Err(emptied("Stripe, which keeps events for 30 days, has it no more"));
        }
        Err(source) => return Err(RetryError::Stripe { id: id.clone(), source }),
    };
    let disagrees = |message: &str| RetryError::Stripe {
        id: id.clone(),
        source: StripeError::Protocol { message: message.to_owned(), request: None },
    };
    let text = json_text::storable(&fetched.object)
        .map_err(|error| disagrees(&format!("the event cannot be stored: {error}")))?
        .into_owned();
    let envelope: Envelope =
        serde_json::from_str(&text).map_err(|_| disagrees("what came for the event is no event"))?;
    if envelope.id != id.as_str() || envelope.event_type != event_type {
        return Err(disagrees("what came for the event is another one"));
    }
    Ok(Payload { text, bytes: i64::try_from(fetched.object.len()).unwrap_or(i64::MAX) })
}

/// What became of a filter's events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requeued {
    /// Made due.
    pub retried: u64,
    /// Left alone, since their payloads were emptied; each can be tried again by its id.
    pub emptied: u64,
}

/// Makes every event of the filter due at once that waits, failed or was skipped and is ours. Without a status: the failed ones. Events whose
/// payloads were emptied are left alone and counted.
pub async fn retry_all(db: &Db, filter: &Filter, rules: &IntakeRules) -> Result<Requeued, DbErr> {
    let status = filter.status.unwrap_or(ProcessingStatus::Failed);
    let filter = Filter { status: Some(status), ..filter.clone() };
    let ours = Condition::all()
        .add(text_in(db.backend(), "event_type", events::event_types().map(str::to_owned)))
        .add_option(rules.livemode.map(|livemode| Column::Livemode.eq(livemode)))
        .add(match &rules.account {
            Some(account) => Column::Account.is_null().or(Column::Account.eq(account)),
            None => Column::Account.is_null(),
        });
    let which = filter.condition(db.backend()).add(ours);
    // Only what is done is ever emptied.
    let emptied = if matches!(status, ProcessingStatus::Completed | ProcessingStatus::Skipped) {
        Entity::find()
            .filter(which.clone().add(Column::SignatureVerified.eq(true)).add(Column::PayloadEmptiedAt.is_not_null()))
            .count(db.reader())
            .await?
    } else {
        0
    };
    Ok(Requeued { retried: requeue(db, which).await?, emptied })
}

/// Rows made due in one transaction.
const SLICE: u64 = 5000;

async fn requeue(db: &Db, which: Condition) -> Result<u64, DbErr> {
    let update = requeue_statement(db, which);
    let mut requeued = 0;
    loop {
        let tx = db.write().await?;
        let done = tx.execute(&update).await?.rows_affected();
        tx.commit().await?;
        requeued += done;
        if done < SLICE {
            return Ok(requeued);
        }
    }
}

fn requeue_statement(db: &Db, which: Condition) -> sea_orm::sea_query::UpdateStatement {
    let now = || Expr::cust(now(db.backend()));
    // What is due already needs no help, and would be found again and again.
    let resting = Column::ProcessingStatus.ne(ProcessingStatus::Pending).or(Expr::col(Column::NextAttemptAt).gt(now()));
    let slice = Query::select()
        .column(Column::Id)
        .from(Entity)
        .cond_where(
            which
                .add(Column::SignatureVerified.eq(true))
                .add(Column::ProcessingStatus.ne(ProcessingStatus::Processing))
                .add(Column::PayloadEmptiedAt.is_null())
                .add(resting),
        )
        .limit(SLICE)
        .take();
    Query::update()
        .table(Entity)
        .value(Column::ProcessingStatus, ProcessingStatus::Pending)
        .value(Column::Processed, false)
        .value(Column::ProcessingAttempts, 0)
        .value(Column::Crashes, 0)
        .value(Column::Source, EventSource::Replay)
        .value(Column::WaitsFor, Option::<String>::None)
        .value(Column::NextAttemptAt, now())
        .value(Column::ProcessedAt, Option::<Time>::None)
        .value(Column::UpdatedAt, now())
        .and_where(Column::Id.in_subquery(slice))
        // Claimed or emptied meanwhile: whoever did that, did it first.
        .and_where(Column::ProcessingStatus.ne(ProcessingStatus::Processing))
        .and_where(Column::PayloadEmptiedAt.is_null())
        .take()
}
