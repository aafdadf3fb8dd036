//! Parked events whose user has come by a way that tells nobody: the host may write into `users` itself.

use sea_orm::DbErr;

use crate::{db::Db, policy::Policy, store::parked};

/// Makes parked events due whose subscription would find its owner now, and returns how many. They are applied like any other, which is what
/// gives the owner; who is told through [`crate::users::put`] needs none of this.
pub async fn release(db: &Db, policy: &Policy) -> Result<u64, DbErr> {
    let mut released = 0;
    loop {
        let tx = db.write().await?;
        let slice = parked::release(&*tx, policy.link_by_email).await?;
        tx.commit().await?;
        released += slice;
        if slice < parked::SLICE {
            return Ok(released);
        }
    }
}
