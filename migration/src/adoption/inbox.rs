//! An older `stripe_webhooks`: its rows stay, and what is needed beside them comes.

use sea_orm_migration::prelude::*;

use super::{
    PATIENCE,
    columns::{WEBHOOKS, adopting, columns, leaving},
    named, note, noted, quoted, texts,
};
use crate::dialect::run;

const STATUSES: &str = "'pending', 'processing', 'completed', 'failed', 'skipped'";

/// A constraint as somebody will have written it: over `varchar` PostgreSQL shows an `IN` in a form that it would not read back as the same.
const AS_WRITTEN: &str = r"regexp_replace(pg_get_constraintdef(oid),
                    '\(\((\w+)\)::text = ANY \(\(ARRAY\[([^]]*)\]\)::text\[\]\)\)', '(\1 IN (\2))')";

/// What the host says of `processing_status`: it lacks one of ours, or may do so one day.
const WAS_CONSTRAINT: &str = "was.constraint.stripe_webhooks.";
const MADE_CONSTRAINT: &str = "made.constraint.stripe_webhooks.";

/// Adds what is missing. The table is held already.
pub(crate) async fn alter(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let there = columns(db, "stripe_webhooks").await?;
    let mut statements = adopting("stripe_webhooks", &there, WEBHOOKS);
    let checks = "SELECT k.conname::text AS one FROM pg_constraint AS k
            JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
         WHERE k.conrelid = to_regclass('stripe_webhooks') AND k.contype = 'c' AND a.attname = 'processing_status' ORDER BY 1";
    for check in texts(db, checks).await? {
        statements.push(format!(
            "INSERT INTO settings (name, value) SELECT {}, {AS_WRITTEN} FROM pg_constraint
                WHERE conrelid = 'stripe_webhooks'::regclass AND conname = {} ON CONFLICT DO NOTHING",
            quoted(&format!("{WAS_CONSTRAINT}{check}")),
            quoted(&check)
        ));
        statements.push(format!("ALTER TABLE stripe_webhooks DROP CONSTRAINT {}", named(&check)));
    }
    let mut constrain = |name: &str, definition: &str| {
        statements.push(note(&format!("{MADE_CONSTRAINT}{name}"), "yes"));
        // Not looked at under lock; that comes later.
        statements.push(format!("ALTER TABLE stripe_webhooks ADD CONSTRAINT {name} {definition} NOT VALID"));
    };
    constrain("stripe_webhooks_processing_status_check", &format!("CHECK (processing_status IN ({STATUSES}))"));
    if !there.iter().any(|column| column.name == "source") {
        constrain("stripe_webhooks_source_check", "CHECK (source IN ('webhook', 'recovery', 'replay'))");
    }
    let foreign = "SELECT 'yes' AS one FROM pg_constraint AS k JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
         WHERE k.conrelid = to_regclass('stripe_webhooks') AND k.contype = 'f' AND a.attname = 'user_id'";
    if texts(db, foreign).await?.is_empty() {
        constrain("stripe_webhooks_user_id_fkey", "FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL");
    }
    run(manager, &statements.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// Old rows get what every row has to have, some at a time; and the constraints are looked at.
const SETTLE: &str = "DO $$
DECLARE
    ids uuid[];
    after uuid;
BEGIN
    LOOP
        IF after IS NULL THEN
            ids := ARRAY(SELECT w.id FROM stripe_webhooks AS w ORDER BY w.id LIMIT 2000);
        ELSE
            ids := ARRAY(SELECT w.id FROM stripe_webhooks AS w WHERE w.id > after ORDER BY w.id LIMIT 2000);
        END IF;
        EXIT WHEN cardinality(ids) = 0;
        after := ids[cardinality(ids)];
        UPDATE stripe_webhooks AS w SET processed = COALESCE(w.processed, w.processing_status IN ('completed', 'skipped'), false),
            processing_status = CASE WHEN w.processing_status IN ({statuses}) THEN w.processing_status
                WHEN w.processed THEN 'completed' WHEN w.processing_status IS NULL THEN 'pending' ELSE 'failed' END,
            processing_error = CASE WHEN w.processing_status IN ({statuses}) OR w.processing_status IS NULL THEN w.processing_error
                ELSE COALESCE(w.processing_error, 'its status was ' || w.processing_status) END,
            processing_attempts = COALESCE(w.processing_attempts, 0),
            created_at = COALESCE(w.created_at, w.stripe_created_at, w.processed_at, w.updated_at, now()),
            updated_at = COALESCE(w.updated_at, w.processed_at, w.created_at, now())
        WHERE w.id = ANY (ids) AND NOT w.signature_verified AND (w.processed IS NULL OR w.processing_attempts IS NULL OR w.created_at IS NULL
            OR w.updated_at IS NULL OR w.processing_status IS NULL OR w.processing_status NOT IN ({statuses}));
        COMMIT;
    END LOOP;
END $$";

const VALIDATE: &str = "DO $$
DECLARE
    made text;
BEGIN
    FOR made IN SELECT k.conname FROM pg_constraint AS k JOIN settings AS s
        ON s.name = 'made.constraint.stripe_webhooks.' || k.conname
        WHERE k.conrelid = 'stripe_webhooks'::regclass AND NOT k.convalidated LOOP
        BEGIN
            EXECUTE format('ALTER TABLE stripe_webhooks VALIDATE CONSTRAINT %I', made);
        EXCEPTION WHEN foreign_key_violation OR check_violation THEN
            RAISE NOTICE 'old rows do not keep to %; it holds for new ones', made;
        END;
    END LOOP;
END $$";

/// After the table has what it needs: its old rows, and the constraints. Outside a transaction.
pub(crate) async fn settle(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    run(manager, &[&SETTLE.replace("{statuses}", STATUSES), VALIDATE]).await
}

/// Takes back what [`alter`] did; rows stay.
pub(crate) async fn leave(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let mut statements = vec![PATIENCE.to_owned()];
    for (name, _) in noted(db, MADE_CONSTRAINT).await? {
        statements.push(format!("ALTER TABLE stripe_webhooks DROP CONSTRAINT IF EXISTS {}", named(&name)));
    }
    let was = noted(db, WAS_CONSTRAINT).await?;
    if was.iter().any(|(_, definition)| !definition.contains("'skipped'")) {
        statements.push(
            "UPDATE stripe_webhooks SET processing_status = 'completed' WHERE processing_status = 'skipped'".to_owned(),
        );
    }
    for (name, definition) in was {
        statements.push(format!("ALTER TABLE stripe_webhooks ADD CONSTRAINT {} {definition}", named(&name)));
    }
    statements.extend(leaving(db, "stripe_webhooks").await?);
    statements.push(super::forget(WAS_CONSTRAINT));
    statements.push(super::forget(MADE_CONSTRAINT));
    run(manager, &statements.iter().map(String::as_str).collect::<Vec<_>>()).await
}
