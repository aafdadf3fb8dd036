//! What users have is carried over: the count, the limit and the reset into the ledger, and what the host says of a subscription into a
//! provisional one that is held until Stripe's own word replaces it.
//!
//! Run again it finds only what the host has changed since. Until Trueup takes over (its first server with a processor), it is: whoever pays in
//! between loses nothing either.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend};
use sea_orm_migration::prelude::*;

use super::{ADOPTED_AT, Asks, step::Legacy, text};
use crate::{
    dialect::run,
    ground::{Ground, Target, begin},
    runner::MigrateError,
};

/// Under this event id the host's word of a subscription is stored.
const ADOPTED: &str = "adopted";

/// So begins the id of a subscription of which the host did not say how Stripe calls it.
const PLACEHOLDER: &str = "sub_adopted_";

/// One transaction for some hundred users: their rows are held for as long as that takes, a few hundredths of a second.
const CARRY: &str = "DO $$
DECLARE
    ids uuid[];
    after uuid;
BEGIN
    LOOP
        PERFORM set_config('trueup.carrying', 'on', true);
        -- Each batch is planned for the tables as they have grown: the plan of the first ones, of empty tables, would be kept.
        PERFORM set_config('plan_cache_mode', 'force_custom_plan', true);
        IF after IS NULL THEN
            ids := ARRAY(SELECT u.id FROM users AS u ORDER BY u.id LIMIT 500);
        ELSE
            ids := ARRAY(SELECT u.id FROM users AS u WHERE u.id > after ORDER BY u.id LIMIT 500);
        END IF;
        EXIT WHEN cardinality(ids) = 0;
        after := ids[cardinality(ids)];
        PERFORM FROM users AS u WHERE u.id = ANY (ids) ORDER BY u.id FOR NO KEY UPDATE;
        -- Of several users with one customer the one who pays has it, else the first.
        WITH {words}
        INSERT INTO stripe_customers (id, user_id, link_user_id, link_evidence, link_at, link_event_id, version_at, version_event_id)
        SELECT DISTINCT ON (w.customer) w.customer, w.id, w.id, 'customer', 'epoch', '', 'epoch', '' FROM words AS w
        WHERE w.customer IS NOT NULL ORDER BY w.customer, w.tier = 'free', w.id
        ON CONFLICT (id) DO NOTHING;
        WITH {words}, {placed}
        DELETE FROM subscriptions AS s USING words AS w
        WHERE s.user_id = w.id AND s.rank = 1 AND s.version_event_id = '{adopted}'
            AND NOT EXISTS (SELECT FROM placed AS p WHERE p.subscription = s.id);
        WITH {words}, {placed}
        INSERT INTO subscriptions AS s (id, user_id, link_user_id, link_evidence, link_at, link_event_id, stripe_customer_id, status,
            billing_cycle_anchor, current_period_end, cancel_at, metadata, rank, version_at, version_kind, version_event_id)
        SELECT p.subscription, p.id, l.user_id, CASE WHEN l.user_id IS NOT NULL THEN 'customer' END,
            CASE WHEN l.user_id IS NOT NULL THEN 'epoch'::timestamptz END, CASE WHEN l.user_id IS NOT NULL THEN '' END,
            p.customer, p.status, p.anchor, p.period_end, p.cancel_at,
            jsonb_strip_nulls(jsonb_build_object('tier', p.tier, 'trueup_usage_limit', CASE WHEN p.tier = 'free' THEN NULL
                WHEN p.most < 0 THEN 'unlimited' ELSE p.most::text END)),
            1, date_trunc('second', now()), 1, '{adopted}'
        FROM placed AS p LEFT JOIN stripe_customers AS c ON c.id = p.customer
            -- Where its customer does not say whose it is, it says so itself.
            CROSS JOIN LATERAL (SELECT CASE WHEN c.user_id IS DISTINCT FROM p.id THEN p.id END AS user_id) AS l
        ON CONFLICT (id) DO UPDATE SET link_user_id = excluded.link_user_id, link_evidence = excluded.link_evidence,
            link_at = excluded.link_at, link_event_id = excluded.link_event_id, stripe_customer_id = excluded.stripe_customer_id,
            status = excluded.status, billing_cycle_anchor = excluded.billing_cycle_anchor,
            current_period_end = excluded.current_period_end, cancel_at = excluded.cancel_at, metadata = excluded.metadata,
            version_at = excluded.version_at, updated_at = now()
        WHERE s.rank = 1 AND s.version_event_id = '{adopted}' AND s.user_id = excluded.user_id
            AND (s.status, s.metadata, s.stripe_customer_id) IS DISTINCT FROM
                (excluded.status, excluded.metadata, excluded.stripe_customer_id);
        WITH {words}, {placed}, {windows}
        INSERT INTO usage_periods (user_id, source, period_start, period_end, used, usage_limit, tier)
        SELECT w.id, w.source, w.starts, w.ends, w.counted, w.allowance, w.tier FROM windows AS w WHERE w.usage_source IS NULL
        ON CONFLICT (user_id, source, period_start) DO NOTHING;
        WITH {words}, {placed}, {windows}
        UPDATE users AS u SET subscription_tier = w.tier, subscription_status = w.status, subscription_access = w.paid,
            usage_count = w.counted, usage_limit = w.allowance, usage_source = w.source, usage_period_start = w.starts,
            usage_period_end = w.ends, usage_provisional = w.paid
        FROM windows AS w WHERE u.id = w.id AND w.usage_source IS NULL;
        WITH {words}
        UPDATE users AS u SET subscription_access = w.tier <> 'free'
        FROM words AS w WHERE u.id = w.id AND w.usage_source IS NOT NULL AND u.subscription_access <> (w.tier <> 'free');
        COMMIT;
    END LOOP;
END $$";

/// What the host says of these users.
const WORDS: &str = "words AS MATERIALIZED (
            SELECT u.id, COALESCE(NULLIF(btrim(u.subscription_tier::text), ''), 'free') AS tier,
                COALESCE(NULLIF(btrim(u.subscription_status::text), ''), 'active') AS status,
                substring(btrim(u.subscription_stripe_customer_id::text) FROM '^[^[:space:][:cntrl:]]{1,255}$') AS customer,
                substring(btrim(u.subscription_stripe_subscription_id::text) FROM '^[^[:space:][:cntrl:]]{1,255}$') AS named,
                {count} AS counted, {limit} AS most, {reset} AS reset_at, u.usage_limit, u.usage_source,
                u.subscription_current_period_end AS period_end, u.subscription_cancel_at AS cancel_at
            FROM users AS u WHERE u.id = ANY (ids)
        )";

/// Whose word makes a subscription, and under which id. Of several users who name one, one has it; the others get a placeholder each.
const PLACED: &str = "placed AS MATERIALIZED (
            SELECT w.*, CASE WHEN h.named THEN w.named ELSE '{placeholder}' || replace(w.id::text, '-', '') END AS subscription,
                CASE WHEN h.named AND w.tier <> 'free' AND w.reset_at <= now() THEN w.reset_at END AS anchor
            FROM (SELECT w.*, row_number() OVER (PARTITION BY w.named ORDER BY w.tier = 'free', w.id) AS place FROM words AS w) AS w
                CROSS JOIN LATERAL (SELECT w.named IS NOT NULL AND w.place = 1 AND NOT EXISTS (SELECT FROM subscriptions AS s
                    WHERE s.id = w.named AND s.user_id IS DISTINCT FROM w.id) AS named) AS h
            WHERE w.tier <> 'free' OR w.named IS NOT NULL OR w.status <> 'active'
        )";

/// The window that is open: months counted from the host's last reset for whoever pays by a subscription of which Stripe's name is known, the
/// calendar month for all others.
const WINDOWS: &str = "windows AS MATERIALIZED (
            SELECT w.id, w.tier, w.status, w.tier <> 'free' AS paid, w.counted, w.usage_source,
                CASE WHEN w.most IS NULL THEN w.usage_limit WHEN w.most < 0 THEN NULL ELSE w.most END AS allowance,
                CASE WHEN w.tier <> 'free' AND p.subscription = w.named THEN p.subscription ELSE 'free' END AS source,
                (b.base + make_interval(months => b.months)) AT TIME ZONE 'UTC' AS starts,
                (b.base + make_interval(months => b.months + 1)) AT TIME ZONE 'UTC' AS ends
            FROM words AS w LEFT JOIN placed AS p ON p.id = w.id
                CROSS JOIN LATERAL (SELECT now() AT TIME ZONE 'UTC' AS clock) AS n
                CROSS JOIN LATERAL (SELECT COALESCE(p.anchor AT TIME ZONE 'UTC', date_trunc('month', n.clock)) AS base) AS a
                CROSS JOIN LATERAL (SELECT ((extract(year FROM n.clock) - extract(year FROM a.base)) * 12
                    + extract(month FROM n.clock) - extract(month FROM a.base))::integer AS months) AS m
                CROSS JOIN LATERAL (SELECT a.base, CASE WHEN a.base + make_interval(months => m.months) > n.clock THEN m.months - 1
                    ELSE m.months END AS months) AS b
        )";

/// The statement for this host's columns.
async fn statement(db: &impl Asks) -> Result<String, DbErr> {
    let legacy = Legacy::find(db).await?;
    let count = legacy.as_ref().map_or_else(
        || "u.usage_count".to_owned(),
        |legacy| format!("GREATEST(0, COALESCE(u.{}, 0)::bigint)", legacy.count),
    );
    let limit = legacy.as_ref().and_then(|legacy| legacy.limit.as_ref());
    let limit = limit.map_or_else(|| "NULL::bigint".to_owned(), |limit| format!("u.{limit}::bigint"));
    let reset = legacy.as_ref().and_then(|legacy| legacy.reset.as_ref());
    let reset = reset.map_or_else(
        || "NULL::timestamptz".to_owned(),
        |(reset, kind)| match kind.as_str() {
            "timestamptz" => format!("u.{reset}"),
            _ => format!("u.{reset}::timestamp AT TIME ZONE 'UTC'"),
        },
    );
    Ok(CARRY
        .replace("{words}", WORDS)
        .replace("{placed}", PLACED)
        .replace("{windows}", WINDOWS)
        .replace("{count}", &count)
        .replace("{limit}", &limit)
        .replace("{reset}", &reset)
        .replace("{adopted}", ADOPTED)
        .replace("{placeholder}", PLACEHOLDER))
}

/// Carries everything over. Outside a transaction: each batch is one.
pub(crate) async fn carry_over(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let sql = statement(manager.get_connection()).await?;
    run(manager, &[&sql]).await
}

/// Noted once Trueup has taken over.
const TAKEN_OVER: &str = "adopted.taken_over";

/// Carries over what the host has changed since, unless Trueup has taken over already; `take_over` says that it does so now. False where there
/// was nothing to do.
pub async fn carry_over_again<'a>(db: impl Into<Target<'a>>, take_over: bool) -> Result<bool, MigrateError> {
    let ground = Ground::of(db.into());
    let carried = again(&ground.db, take_over).await;
    ground.close().await?;
    Ok(carried?)
}

async fn again(db: &DatabaseConnection, take_over: bool) -> Result<bool, DbErr> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(false);
    }
    let open = format!(
        "SELECT value AS one FROM settings WHERE name = '{ADOPTED_AT}' AND EXISTS (SELECT FROM settings WHERE name = 'adopted.table.users')
            AND NOT EXISTS (SELECT FROM settings WHERE name = '{TAKEN_OVER}')"
    );
    let looking = begin(db).await?;
    let sql = match text(&looking, &open).await? {
        Some(_) => Some(statement(&looking).await?),
        None => None,
    };
    looking.commit().await?;
    let Some(sql) = sql else { return Ok(false) };
    db.execute_unprepared(&sql).await?;
    if take_over {
        let note = format!(
            "INSERT INTO settings (name, value) VALUES ('{TAKEN_OVER}', to_json(now())#>>'{{}}') ON CONFLICT DO NOTHING"
        );
        db.execute_unprepared(&note).await?;
    }
    Ok(true)
}
