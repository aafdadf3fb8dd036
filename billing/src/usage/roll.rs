//! Rolling: whoever is due gets the window of now, and what they may do now.
//!
//! Mostly only the month is over: then the window follows from a few columns, and a batch is a handful of set statements. Where time has
//! changed what a user may do, or nothing was derived yet, everything is derived from the facts.

use std::collections::{BTreeSet, HashMap};

use entity::{
    Time,
    enums::ChangeSource,
    ids::{SubscriptionId, UserId},
    subscriptions, tier_overrides,
};
use sea_orm::{ConnectionTrait, DbErr, EntityTrait, QueryFilter};
use serde::Serialize;

use super::{Meter, OpenWindow, Source};
use crate::{
    apply::{Rules, reproject_each},
    catalog::Catalog,
    facts::{Item, Subscription},
    processor::{
        load::{Access, Needs, load, subscription},
        save::save,
    },
    projection::{Outlook, Standing},
    store::{
        inbox::lock_keys,
        rowset::text_in,
        usage::{DueRow, Opening, open, over, plain_due_one},
    },
    world::World,
};

/// What rolling did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rolled {
    /// Users who were due.
    pub users: u64,
    /// Windows that began, or were entered again.
    pub opened: u64,
    /// Windows that were left.
    pub closed: u64,
    /// Users whose entitlement ended, or changed, by date.
    pub expired: u64,
}

impl Rolled {
    pub(super) fn add(&mut self, other: Self) {
        self.users += other.users;
        self.opened += other.opened;
        self.closed += other.closed;
        self.expired += other.expired;
    }

    /// Counts one user, and tells what is to be written.
    fn turn(&mut self, user: UserId, before: Option<&OpenWindow>, ahead: &Outlook) -> Opening {
        let next = &ahead.window;
        self.users += 1;
        if !before.is_some_and(|before| before.is_same_row(next)) {
            self.opened += 1;
            self.closed += u64::from(before.is_some());
        }
        Opening {
            user_id: user,
            source: next.source.to_string(),
            period_start: next.window.start,
            period_end: next.window.end,
            provisional: next.provisional,
            carries: before.is_some_and(|before| before.goes_over_to(next)),
            rolls_at: ahead.rolls_at,
        }
    }
}

impl Meter<'_> {
    /// Rolls one user, if due. An unknown user is nobody to roll.
    pub async fn roll(&self, user: UserId) -> Result<Rolled, DbErr> {
        let tx = self.db.write().await?;
        let now = self.now(&*tx).await?;
        if let Some(row) = plain_due_one(&*tx, now, user).await? {
            let rolled = roll_plain(&*tx, self.catalog, now, vec![row]).await?;
            if rolled.users > 0 {
                tx.commit().await?;
                return Ok(rolled);
            }
        }
        // Anew: rolling by the facts takes keys, and keys always come before rows.
        drop(tx);
        self.roll_by_facts(&BTreeSet::from([user])).await
    }

    /// Rolls those of these users who are due, in one transaction, from everything that is known of them.
    pub(super) async fn roll_by_facts(&self, users: &BTreeSet<UserId>) -> Result<Rolled, DbErr> {
        let needs = Needs { users: users.clone(), ..Needs::default() };
        let tx = self.db.write().await?;
        lock_keys(&*tx, needs.lock_keys()).await?;
        let mut world = load(&*tx, &needs, Access::Write).await?;
        let now = self.now(&*tx).await?;
        let due: Vec<(UserId, Option<OpenWindow>)> = users
            .iter()
            .filter_map(|id| world.user(*id))
            .filter(|user| user.ahead.rolls_at <= now)
            .map(|user| (user.id, user.ahead.open.clone()))
            .collect();
        let mut concerned = std::mem::take(&mut world.dirty.concerned);
        if due.is_empty() && concerned.is_empty() {
            return Ok(Rolled::default());
        }
        concerned.extend(due.iter().map(|(id, _)| *id));
        let rules = Rules { catalog: self.catalog, policy: self.policy, now };
        let dates: HashMap<UserId, String> =
            concerned.iter().filter_map(|id| Some((*id, passed(&world, *id, rules)?))).collect();
        let occasion = |_: &World, id| dates.get(&id).map_or_else(|| "derived anew".to_owned(), Clone::clone);
        let changes = reproject_each(&mut world, &concerned, occasion, ChangeSource::Schedule, None, rules);
        let expired = changes.iter().filter(|change| dates.contains_key(&change.user)).count() as u64;
        let mut rolled = Rolled { expired, ..Rolled::default() };
        let openings: Vec<Opening> = due
            .iter()
            .map(|(id, before)| {
                let (_, ahead) = world.project(*id, self.catalog, self.policy, now);
                rolled.turn(*id, before.as_ref(), &ahead)
            })
            .collect();
        save(&*tx, &world, &changes, &[], self.catalog, now).await?;
        open(&*tx, &openings).await?;
        let ended = |id: &UserId| world.tier_override(*id).is_some_and(|given| given.until <= now);
        let ended: Vec<UserId> = concerned.iter().copied().filter(ended).collect();
        if !ended.is_empty() {
            let over = over(self.db.backend(), ended, now);
            tier_overrides::Entity::delete_many().filter(over).exec(&*tx).await?;
        }
        tx.commit().await?;
        Ok(rolled)
    }
}

/// Rolls users, whose rows are held, by their columns and the governing subscription's alone. Whose subscription is not to be read stays
/// due.
pub(super) async fn roll_plain(
    db: &impl ConnectionTrait,
    catalog: &Catalog,
    now: Time,
    rows: Vec<DueRow>,
) -> Result<Rolled, DbErr> {
    let governing = rows.iter().filter_map(|row| match row.next_source() {
        Source::Free => None,
        Source::Subscription(id) => Some(id.to_string()),
    });
    let ids: Vec<String> = governing.collect();
    let mut governing: HashMap<SubscriptionId, Subscription> = HashMap::new();
    if !ids.is_empty() {
        let ids = text_in(db.get_database_backend(), "id", ids);
        let rows = subscriptions::Entity::find().filter(ids).all(db).await?;
        governing.extend(rows.into_iter().filter_map(|row| subscription(row).ok()).map(|s| (s.id.clone(), s)));
    }
    let free = OpenWindow::free(now);
    let mut rolled = Rolled::default();
    let mut openings = Vec::with_capacity(rows.len());
    for row in &rows {
        let (window, trial_start) = match row.next_source() {
            Source::Free => {
                let guessed = row.usage_provisional && row.subscription_access && row.open().is_same_row(&free);
                (OpenWindow { provisional: guessed, ..free.clone() }, None)
            }
            Source::Subscription(id) => {
                let Some(subscription) = governing.get(&id) else { continue };
                let standing = Standing { subscription, invoice: None, customer_deleted: false };
                let interval = standing.deciding_item(catalog).0.and_then(Item::billed_every);
                (OpenWindow::of(subscription, interval, now), subscription.snapshot.trial_start)
            }
        };
        let ahead = Outlook::new(window, trial_start, row.entitlement_changes_at, now);
        openings.push(rolled.turn(row.id, Some(&row.open()), &ahead));
    }
    open(db, &openings).await?;
    Ok(rolled)
}

/// Which date has passed, to the difference of what a user may do. To be asked before anything is derived anew.
fn passed(world: &World, user: UserId, rules: Rules<'_>) -> Option<String> {
    if let Some(given) = world.tier_override(user)
        && given.until <= rules.now
        && rules.catalog.by_tier(&given.tier).is_some()
    {
        return Some(format!("the override to {} has ended", given.tier));
    }
    let user = world.user(user)?;
    // Whatever changed before that moment was seen when it was derived.
    user.ahead.changes_at.filter(|at| *at <= rules.now)?;
    let governing = world.subscription(user.projection.subscription.as_ref()?)?;
    let standing = world.standing(governing);
    let over = |end: Option<Time>| end.is_some_and(|end| end <= rules.now);
    if over(governing.snapshot.scheduled_end()) {
        Some(format!("the scheduled end of {} has passed", governing.id))
    } else if over(standing.grace_end(rules.policy)) {
        Some(format!("the time in which the payment of {} could be made up for is over", governing.id))
    } else {
        None
    }
}
