//! Facts that were fetched from Stripe's API, told to the world as an event would tell them: a refetch, a refresh, a repair.
//!
//! A fetched object is a snapshot of the second its fetch began, so whatever is newer wins by the same order as among events
//! ([`crate::facts`]), and it does not matter who comes first.

use std::collections::BTreeSet;

use entity::{Time, enums::ChangeSource, ids::UserId};
use sea_orm::DbErr;
use uuid::Uuid;

use crate::{
    apply::{Cause, Change, Rules, apply, folded, reproject},
    catalog::Catalog,
    db::{Db, WriteTx},
    events::Told,
    facts::Stamp,
    policy::Policy,
    processor::{
        load::{Access, Needs, load},
        save::save,
    },
    store::inbox::{clock, lock_keys},
    world::World,
};

/// Stands in a version where the id of an event would stand. Greater than every `evt_…`: of one second, what was fetched wins the last tie.
const FETCH: &str = "fetch";

/// The stamp of what was fetched at this second of Stripe's clock.
pub fn stamp(at: Time) -> Stamp {
    Stamp { at, event_id: FETCH.to_owned() }
}

/// Why it was fetched.
#[derive(Debug, Clone, Copy)]
pub struct Occasion<'a> {
    /// For the timeline, for example `reconcile`.
    pub what: &'a str,
    /// What made it.
    pub source: ChangeSource,
    /// The reconciliation, where one did.
    pub reconciliation: Option<Uuid>,
}

/// Merges what was fetched, in one transaction, and returns what changed for whom, once for each user. Each comes with its stamp
/// ([`stamp`]).
pub async fn take_in(
    db: &Db,
    catalog: &Catalog,
    policy: &Policy,
    fetched: Vec<(Told, Stamp)>,
    occasion: Occasion<'_>,
) -> Result<Vec<Change>, DbErr> {
    let tx = db.write().await?;
    let (_, changes) = take_in_within(&tx, catalog, policy, fetched, &BTreeSet::new(), occasion).await?;
    tx.commit().await?;
    Ok(changes)
}

/// The same within a transaction that is the caller's to commit; `users` are derived anew as well, whatever was fetched. Also returns the
/// world as it is now.
pub(crate) async fn take_in_within(
    tx: &WriteTx,
    catalog: &Catalog,
    policy: &Policy,
    fetched: Vec<(Told, Stamp)>,
    users: &BTreeSet<UserId>,
    occasion: Occasion<'_>,
) -> Result<(World, Vec<Change>), DbErr> {
    let needs = needs(&fetched, users);
    let now = clock(&**tx).await?;
    lock_keys(&**tx, needs.lock_keys()).await?;
    let mut world = load(&**tx, &needs, Access::Write).await?;
    let changes = tell(&mut world, fetched, users, occasion, Rules { catalog, policy, now });
    save(&**tx, &world, &changes, &[], catalog, now).await?;
    Ok((world, changes))
}

/// What has to be loaded for [`tell`].
pub(crate) fn needs(fetched: &[(Told, Stamp)], users: &BTreeSet<UserId>) -> Needs {
    let mut needs = Needs { users: users.clone(), ..Needs::default() };
    for (told, _) in fetched {
        needs.add(told);
    }
    needs
}

/// Tells a world what was fetched, and derives these users anew: values in, values out. However much was told of a user, what changed for them
/// is one change, from what was to what is.
pub(crate) fn tell(
    world: &mut World,
    fetched: Vec<(Told, Stamp)>,
    users: &BTreeSet<UserId>,
    occasion: Occasion<'_>,
    rules: Rules<'_>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for (told, stamp) in fetched {
        let cause = Cause { event_type: occasion.what, source: occasion.source, stamp: &stamp };
        changes.extend(apply(world, told, cause, rules).changes);
    }
    let users = users | &std::mem::take(&mut world.dirty.concerned);
    changes.extend(reproject(world, &users, occasion.what, occasion.source, None, rules));
    let mut changes = folded(changes);
    for change in &mut changes {
        change.event_id = None;
        change.reconciliation = occasion.reconciliation;
    }
    changes
}
