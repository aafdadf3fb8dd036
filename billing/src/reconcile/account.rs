//! Whose the key is. A key of another account than last time shows another world, in which everybody here has lost everything.

use entity::settings;
use sea_orm::{DbErr, EntityTrait};

use super::{End, Run};
use crate::{
    db::Db,
    store::{
        inbox::clock,
        rowset::{OnConflict, upsert},
    },
    stripe::{Lane, Stripe, StripeError, objects::account_id},
};

/// Under this name the account is remembered against which everything was reconciled last.
const SETTING: &str = "stripe_account";

/// The account of the key; none where the key may not tell.
pub(super) struct Whose(Option<String>);

/// Asks Stripe whose the key is.
pub(crate) async fn account_of_key(stripe: &dyn Stripe) -> Result<Option<String>, StripeError> {
    match account_id(stripe, Lane::Background).await {
        Ok(account) => Ok(Some(account)),
        // A restricted key need not have this permission, and not everything that speaks like Stripe has accounts: what is at this address, if
        // it is not Stripe at all, the next call tells.
        Err(StripeError::Permission { .. } | StripeError::Missing { .. } | StripeError::Protocol { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The account against which everything was reconciled last.
pub(crate) async fn remembered(db: &Db) -> Result<Option<String>, DbErr> {
    Ok(settings::Entity::find_by_id(SETTING).one(db.reader()).await?.map(|row| row.value))
}

/// Refuses the key of another account than last time.
pub(super) async fn check(run: &Run<'_>) -> Result<Result<Whose, End>, DbErr> {
    let whose = match account_of_key(&*run.reconciler.stripe).await {
        Ok(whose) => whose,
        Err(error) => return Ok(Err(error.into())),
    };
    run.ledger.report(|report| report.account.clone_from(&whose));
    let Some(account) = &whose else {
        let note = "the key does not tell its account, so that it could not be compared with last time's; a restricted key needs that \
                    permission";
        run.ledger.report(|report| report.notes.push(note.to_owned()));
        return Ok(Ok(Whose(None)));
    };
    match remembered(&run.reconciler.db).await? {
        Some(last) if last != *account && !run.options.accept_account => Ok(Err(End::Refused(format!(
            "the API key is of the account {account}, and last time it was of {last}: everybody here could lose their access; set \
             STRIPE_SECRET_KEY to a key of {last}, or accept the new account (--accept-account)"
        )))),
        _ => Ok(Ok(Whose(whose))),
    }
}

/// Remembers the account for the next time.
pub(super) async fn remember(db: &Db, whose: Whose) -> Result<(), DbErr> {
    let Whose(Some(value)) = whose else { return Ok(()) };
    if remembered(db).await?.is_some_and(|last| last == value) {
        return Ok(());
    }
    let tx = db.write().await?;
    let row = settings::Model { name: SETTING.to_owned(), value, updated_at: clock(&*tx).await? };
    upsert::<settings::Entity>(&*tx, &[row], OnConflict::Replace).await?;
    tx.commit().await
}
