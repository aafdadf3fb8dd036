//! What the host asks and tells of its users.

use std::time::Duration;

use entity::{
    Time, entitlement_changes,
    enums::ChangeSource,
    ids::{CustomerId, UserId},
    usage_periods,
    users::{ActiveModel, Column, Entity, Model},
};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait as _, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, RuntimeErr, SqlErr,
    sea_query::{Expr, Query},
    sqlx,
};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    apply::{Rules, reproject},
    catalog::Catalog,
    db::{self, Db},
    policy::Policy,
    processor::{
        load::{Access, Needs, load, needs_of_user, open_window},
        save::save,
    },
    projection::{Override, Projection},
    store::{
        inbox::{clock, lock_keys},
        rowset::{email_column, text_in},
    },
    usage::{Meter, OpenWindow, Rolled, Window},
    world::email_key,
};

/// A user as the host reads it, computed against a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct UserView {
    /// The host's id.
    pub id: UserId,
    /// As the host wrote it.
    pub email: String,
    /// As the host wrote it.
    pub full_name: Option<String>,
    /// What the user may do, and by what right.
    pub projection: Projection,
    /// Used in the open window.
    pub used: i64,
    /// The open window.
    pub window: Window,
    /// The tier an operator gave, over or not.
    pub tier_override: Option<Override>,
    /// What was rolled before the user was read.
    pub rolled: Rolled,
}

impl UserView {
    /// What is left in the open window; `None` is unlimited.
    pub fn remaining(&self) -> Option<i64> {
        self.projection.entitlement.limit.map(|limit| (limit - self.used).max(0))
    }
}

/// Why a user could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Not an address.
    #[error(
        "`email` is not an e-mail address: it needs text before and after one `@`, no white space, and at most 254 characters"
    )]
    BadEmail,
    /// Too long a name.
    #[error("`full_name` has more than 255 characters or holds control characters")]
    BadName,
    /// Somebody else's address.
    #[error("another user has this e-mail address; addresses are unique without regard to case")]
    EmailTaken,
    /// The table is the host's, and wants more of a new user than we know.
    #[error(
        "the table `users` is your application's own, and a new row in it needs what only your application knows ({needs}); make the user there (INSERT \
         INTO users …), and Trueup has them at once; PUT is then only needed to change the address or the name"
    )]
    HostMakesUsers {
        /// A column or a constraint.
        needs: String,
    },
    /// The database.
    #[error("the user could not be stored: {0}")]
    Database(#[from] DbErr),
}

/// What a host's table misses in a row of ours: a column without a value (23502), a row elsewhere (23503), something that a check asks for (23514).
fn missed(error: &DbErr) -> Option<String> {
    let (DbErr::Exec(RuntimeErr::SqlxError(inner)) | DbErr::Query(RuntimeErr::SqlxError(inner))) = error else {
        return None;
    };
    let sqlx::Error::Database(database) = &**inner else { return None };
    let database = database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
    match database.code() {
        "23502" => Some(format!("the column `{}`", database.column().unwrap_or("?"))),
        "23503" | "23514" => Some(format!("the constraint `{}`", database.constraint().unwrap_or("?"))),
        _ => None,
    }
}

/// A user as the host tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserTold {
    /// The host's id.
    pub id: UserId,
    /// The address.
    pub email: String,
    /// The name; absent leaves it as it is.
    pub full_name: Option<String>,
}

fn check(told: &UserTold) -> Result<(), PutError> {
    let email = told.email.trim();
    let mut parts = email.split('@');
    let halves = (parts.next(), parts.next(), parts.next());
    let shaped = matches!(halves, (Some(local), Some(domain), None) if !local.is_empty() && !domain.is_empty());
    if !shaped || email.chars().count() > 254 || email.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(PutError::BadEmail);
    }
    match &told.full_name {
        Some(name) if name.chars().count() > 255 || name.chars().any(char::is_control) => Err(PutError::BadName),
        _ => Ok(()),
    }
}

/// Creates or updates a user, and gives them at once whatever Stripe already said of them. The second value is true for a new user.
pub async fn put(db: &Db, catalog: &Catalog, policy: &Policy, told: UserTold) -> Result<(UserView, bool), PutError> {
    check(&told)?;
    let email = told.email.trim().to_owned();
    let tx = db.write().await?;
    // The same keys as the processor's, and like there before any row: the user's may not exist yet, and two who wait must not wait for
    // each other.
    let needs = needs_of_user(&*tx, told.id, &email).await?;
    lock_keys(&*tx, needs.lock_keys()).await?;
    let now = clock(&*tx).await?;
    let existing = Entity::find_by_id(told.id).one(&*tx).await?;
    let created = existing.is_none();
    let taken = |error: DbErr| match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(_)) => PutError::EmailTaken,
        _ => match missed(&error) {
            Some(needs) => PutError::HostMakesUsers { needs },
            None => PutError::Database(error),
        },
    };
    if created {
        let row = ActiveModel {
            id: Set(told.id),
            email: Set(email.clone()),
            full_name: Set(told.full_name.clone()),
            usage_limit: Set(catalog.free().monthly_limit.map(i64::from)),
            ..Default::default()
        };
        Entity::insert(row).exec_without_returning(&*tx).await.map_err(taken)?;
    } else {
        let mut update = Query::update();
        update.table(Entity).value(Column::Email, email.clone()).value("updated_at", Expr::cust(db::now(db.backend())));
        if let Some(name) = &told.full_name {
            update.value(Column::FullName, name.clone());
        }
        update.and_where(Column::Id.eq(told.id));
        tx.execute(&update).await.map_err(taken)?;
    }
    // Anew: what came in while the lock was waited for belongs to the user as well. No further keys are taken now that the row is held;
    // whoever holds one of them waits for the row, and derives from what is written here.
    let needs = needs_of_user(&*tx, told.id, &email).await?;
    let mut world = load(&*tx, &needs, Access::Write).await?;
    let mut concerned = std::mem::take(&mut world.dirty.concerned);
    world.welcome(told.id, policy, &mut concerned);
    let rules = Rules { catalog, policy, now };
    let what = if created { "the user was made" } else { "the user was changed" };
    let changes = reproject(&mut world, &concerned, what, ChangeSource::Api, None, rules);
    save(&*tx, &world, &changes, &[], catalog, now).await?;
    tx.commit().await?;
    let view = get(db, catalog, policy, told.id, now).await?;
    let view = view.ok_or_else(|| DbErr::RecordNotFound(format!("user {}, just stored", told.id)))?;
    Ok((view, created))
}

/// The user, computed against `now`: an end by date counts from its second on, whether or not a job has come by.
pub async fn get(
    db: &Db,
    catalog: &Catalog,
    policy: &Policy,
    id: UserId,
    now: Time,
) -> Result<Option<UserView>, DbErr> {
    match Entity::find_by_id(id).one(db.reader()).await? {
        Some(row) => Ok(Some(view(db, catalog, policy, row, now).await?)),
        None => Ok(None),
    }
}

/// The user with this address, without regard to case.
pub async fn by_email(
    db: &Db,
    catalog: &Catalog,
    policy: &Policy,
    email: &str,
    now: Time,
) -> Result<Option<UserView>, DbErr> {
    let row = Entity::find()
        .filter(text_in(db.backend(), email_column(db.backend()), [email_key(email)]))
        .one(db.reader())
        .await?;
    match row {
        Some(row) => Ok(Some(view(db, catalog, policy, row, now).await?)),
        None => Ok(None),
    }
}

/// The user who owns this customer.
pub async fn by_customer(
    db: &Db,
    catalog: &Catalog,
    policy: &Policy,
    customer: &CustomerId,
    now: Time,
) -> Result<Option<UserView>, DbErr> {
    let known = entity::stripe_customers::Entity::find_by_id(customer.clone()).one(db.reader()).await?;
    let row = match known.and_then(|row| row.user_id) {
        Some(user) => Entity::find_by_id(user).one(db.reader()).await?,
        None => {
            Entity::find().filter(Column::SubscriptionStripeCustomerId.eq(customer.as_str())).one(db.reader()).await?
        }
    };
    match row {
        Some(row) => Ok(Some(view(db, catalog, policy, row, now).await?)),
        None => Ok(None),
    }
}

/// How long reading a user waits for being able to write.
const ROLL_PATIENCE: Duration = Duration::from_millis(800);

/// Rolls a user who is due, as far as that is possible: whoever reads is answered all the same.
async fn roll(db: &Db, catalog: &Catalog, policy: &Policy, user: UserId) -> Rolled {
    match tokio::time::timeout(ROLL_PATIENCE, Meter::new(db, catalog, policy).roll(user)).await {
        Ok(Ok(rolled)) => rolled,
        Ok(Err(error)) => {
            tracing::debug!(%user, %error, "a user who is due was read and could not be rolled");
            Rolled::default()
        }
        Err(_) => {
            tracing::debug!(%user, "a user who is due was read and could not be rolled in time");
            Rolled::default()
        }
    }
}

async fn view(db: &Db, catalog: &Catalog, policy: &Policy, mut row: Model, now: Time) -> Result<UserView, DbErr> {
    let mut rolled = Rolled::default();
    if row.rolls_at <= now {
        // Boxed: it is rare, and its future large.
        rolled = Box::pin(roll(db, catalog, policy, row.id)).await;
        if rolled.users > 0
            && let Some(anew) = Entity::find_by_id(row.id).one(db.reader()).await?
        {
            row = anew;
        }
    }
    let mut needs = Needs::default();
    needs.users.insert(row.id);
    let world = load(db.reader(), &needs, Access::Read).await?;
    let (projection, outlook) = world.project(row.id, catalog, policy, now);
    let used = used_in(db, &row, &outlook.window).await?;
    let tier_override = world.tier_override(row.id).cloned();
    let Model { id, email, full_name, .. } = row;
    Ok(UserView { id, email, full_name, projection, used, window: outlook.window.window, tier_override, rolled })
}

/// What a user has used in a window: the open one, one they were in before, or one that is yet to be opened.
async fn used_in(db: &Db, row: &Model, window: &OpenWindow) -> Result<i64, DbErr> {
    let open = open_window(row);
    if open.as_ref().is_some_and(|open| open.is_same_row(window)) {
        return Ok(row.usage_count);
    }
    let key = (row.id, window.source.to_string(), window.window.start);
    let entered = usage_periods::Entity::find_by_id(key).one(db.reader()).await?.map_or(0, |period| period.used);
    let goes_over = open.is_some_and(|open| open.goes_over_to(window));
    Ok(entered + if goes_over { row.usage_count } else { 0 })
}

/// An entry of the timeline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TimelineEntry {
    /// Ours; time-ordered.
    pub id: Uuid,
    /// When.
    pub changed_at: Time,
    /// What made it.
    pub source: ChangeSource,
    /// The event, where one did.
    pub event_id: Option<String>,
    /// What the user might do until then.
    pub before: serde_json::Value,
    /// What the user may do since.
    pub after: serde_json::Value,
    /// Which rule made it so.
    pub reason: String,
}

/// Why is this user on this tier? Newest first, at most `limit`, older than `before` where given.
pub async fn timeline(db: &Db, user: UserId, limit: u64, before: Option<Uuid>) -> Result<Vec<TimelineEntry>, DbErr> {
    use entitlement_changes::{Column, Entity};
    let mut select = Entity::find().filter(Column::UserId.eq(user));
    if let Some(before) = before {
        select = select.filter(Column::Id.lt(before));
    }
    let rows = select.order_by_desc(Column::Id).limit(limit).all(db.reader()).await?;
    Ok(rows
        .into_iter()
        .map(|row| TimelineEntry {
            id: row.id,
            changed_at: row.changed_at,
            source: row.source,
            event_id: row.event_id,
            before: row.before,
            after: row.after,
            reason: row.reason,
        })
        .collect())
}
