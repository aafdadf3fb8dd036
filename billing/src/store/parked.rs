//! Which parked events wait for a user who is there.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use super::{inbox::now, rowset::email_column};

/// Events made due in one statement.
pub(crate) const SLICE: u64 = 5000;

/// Makes parked events due whose subscription has an owner or would find one, as `World` finds it: the user its own link names; without a
/// link of its own, its customer's: the user that one is tied to, else by the user's own row, else by address. A slice at a time.
///
/// An address leads to a tie even where another customer is the user's already, so such an event is released once, and not in vain again.
pub(crate) async fn release(db: &impl ConnectionTrait, link_by_email: bool) -> Result<u64, DbErr> {
    let backend = db.get_database_backend();
    let now = now(backend);
    let email = |of: &str| email_column(backend).replace("email", &format!("{of}.email"));
    let (users, customers) = (email("u"), email("c"));
    // As single values, and the ids as an array: each is looked up by its key, whatever the planner thinks how many there are.
    let there = |user: &str| format!("(SELECT u.id FROM users AS u WHERE u.id = {user}) IS NOT NULL");
    let (named, tied) = (there("s.link_user_id"), there("c.link_user_id"));
    let by_email = if link_by_email {
        format!("OR (c.link_user_id IS NULL AND (SELECT u.id FROM users AS u WHERE {users} = {customers}) IS NOT NULL)")
    } else {
        String::new()
    };
    let waiting = format!(
        "SELECT w.id FROM stripe_webhooks AS w
         JOIN subscriptions AS s ON s.id = w.waits_for
         LEFT JOIN stripe_customers AS c ON c.id = s.stripe_customer_id
         WHERE w.waits_for IS NOT NULL AND w.processing_status = 'pending' AND w.next_attempt_at > {now} AND (
            s.user_id IS NOT NULL
            OR {named}
            OR (s.link_user_id IS NULL AND (
                (c.link_evidence <> 'email' AND {tied})
                OR EXISTS (SELECT 1 FROM users AS u WHERE u.subscription_stripe_customer_id = s.stripe_customer_id
                    AND (c.link_user_id IS NULL OR (c.link_evidence = 'email' AND c.link_user_id <> u.id)))
                {by_email})))
         LIMIT {SLICE}"
    );
    let among =
        if backend == DbBackend::Postgres { format!("= ANY (ARRAY({waiting}))") } else { format!("IN ({waiting})") };
    let sql = format!(
        "UPDATE stripe_webhooks SET next_attempt_at = {now} WHERE processing_status = 'pending' AND id {among}"
    );
    Ok(db.execute_raw(Statement::from_string(backend, sql)).await?.rows_affected())
}
