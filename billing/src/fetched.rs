//! Facts that were fetched from Stripe's API, told to the world as an event would tell them: a refetch, a refresh, a repair.
//!
//! A fetched object is a snapshot of the second its fetch began, so whatever is newer wins by the same order as among events
//! ([`crate::facts`]), and it does not matter who comes first.

use entity::{Time, enums::ChangeSource};
use sea_orm::DbErr;
use uuid::Uuid;

use crate::{
    apply::{Cause, Change, Rules, apply, folded},
    catalog::Catalog,
    db::Db,
    events::Told,
    facts::Stamp,
    policy::Policy,
    processor::{
        load::{Access, Needs, load},
        save::save,
    },
    store::inbox::{clock, lock_keys},
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

/// Merges what was fetched, in one transaction, and returns what changed for whom. Each comes with its stamp ([`stamp`]).
pub async fn take_in(
    db: &Db,
    catalog: &Catalog,
    policy: &Policy,
    fetched: Vec<(Told, Stamp)>,
    occasion: Occasion<'_>,
) -> Result<Vec<Change>, DbErr> {
    let mut needs = Needs::default();
    for (told, _) in &fetched {
        needs.add(told);
    }
    let tx = db.write().await?;
    let now = clock(&*tx).await?;
    lock_keys(&*tx, needs.lock_keys()).await?;
    let mut world = load(&*tx, &needs, Access::Write).await?;
    let rules = Rules { catalog, policy, now };
    let mut changes = Vec::new();
    for (told, stamp) in fetched {
        let cause = Cause { event_type: occasion.what, source: occasion.source, stamp: &stamp };
        changes.extend(apply(&mut world, told, cause, rules).changes);
    }
    // One entry for a user, however much was fetched of theirs.
    let mut changes = folded(changes);
    for change in &mut changes {
        change.event_id = None;
        change.reconciliation = occasion.reconciliation;
    }
    save(&*tx, &world, &changes, &[], catalog, now).await?;
    tx.commit().await?;
    Ok(changes)
}
