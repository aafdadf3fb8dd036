//! What is emptied and deleted, in bounded statements that wait for nobody.

use sea_orm::{ConnectionTrait, DbBackend, DbErr};

use super::inbox::{execute, now};

/// Something that grows old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Old {
    /// Payloads of events that are done.
    Payloads,
    /// Events that are done and emptied.
    Events,
    /// E-mails that are done.
    Emails,
    /// The history of jobs.
    JobRuns,
    /// Keys by which usage was counted once.
    UsageRecords,
    /// What reconciliations found.
    Drifts,
    /// Reconciliations without what they found; the last whole one stays, however old.
    Reconciliations,
}

impl Old {
    /// Its table.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Payloads | Self::Events => "stripe_webhooks",
            Self::Emails => "email_outbox",
            Self::JobRuns => "job_runs",
            Self::UsageRecords => "usage_records",
            Self::Drifts => "reconciliation_drifts",
            Self::Reconciliations => "reconciliations",
        }
    }

    /// Rows in one transaction: short enough that nobody waits for it.
    pub(crate) fn slice(self, backend: DbBackend) -> u32 {
        match self {
            // Payloads live outside their rows and go with them.
            Self::Payloads | Self::Events => choose_number(backend, 1000, 500),
            _ => choose_number(backend, 5000, 1000),
        }
    }

    /// Where the old rows are: `$1` is the age in seconds, `$2` how many at most. What partial indexes ask for stands there in their very words.
    fn old(self, place: &str, before: &str) -> String {
        match self {
            Self::Payloads => format!(
                "SELECT {place} FROM stripe_webhooks
                    WHERE payload_emptied_at IS NULL AND processing_status IN ('completed', 'skipped')
                    AND processed_at < {before} ORDER BY processed_at LIMIT $2"
            ),
            Self::Events => format!(
                "SELECT {place} FROM stripe_webhooks
                    WHERE payload_emptied_at IS NOT NULL AND processing_status IN ('completed', 'skipped')
                    AND processed_at < {before} ORDER BY processed_at LIMIT $2"
            ),
            Self::Emails => format!(
                "SELECT {place} FROM email_outbox WHERE status <> 'pending' AND created_at < {before} ORDER BY created_at LIMIT $2"
            ),
            // Each job's last slot stays: it tells from where on slots were missed.
            Self::JobRuns => format!(
                "SELECT r.{place} FROM job_runs AS r WHERE finished_at IS NOT NULL AND started_at < {before}
                    AND (trigger = 'manual' OR EXISTS (SELECT 1 FROM job_runs AS later
                        WHERE later.job = r.job AND later.slot > r.slot AND later.trigger <> 'manual'))
                    ORDER BY started_at LIMIT $2"
            ),
            // In no order: the index only knows in which blocks they are.
            Self::UsageRecords => format!("SELECT {place} FROM usage_records WHERE created_at < {before} LIMIT $2"),
            Self::Drifts => format!(
                "SELECT d.{place} FROM reconciliations AS r JOIN reconciliation_drifts AS d ON d.reconciliation_id = r.id
                    WHERE r.finished_at IS NOT NULL AND r.started_at < {before} LIMIT $2"
            ),
            Self::Reconciliations => format!(
                "SELECT r.{place} FROM reconciliations AS r WHERE finished_at IS NOT NULL AND started_at < {before}
                    AND NOT EXISTS (SELECT 1 FROM reconciliation_drifts AS d WHERE d.reconciliation_id = r.id)
                    AND id IS DISTINCT FROM (SELECT id FROM reconciliations WHERE outcome = 'succeeded' AND user_id IS NULL
                        ORDER BY finished_at DESC LIMIT 1) LIMIT $2"
            ),
        }
    }

    /// The statement that empties or deletes. It goes by where the rows lie, so no plan reads the whole table; on PostgreSQL the rows are locked by then
    /// and lie still, and whatever somebody else holds is left for another day.
    pub(crate) fn statement(self, backend: DbBackend) -> String {
        let (table, now) = (self.table(), now(backend));
        let which = if backend == DbBackend::Postgres {
            let of = match self {
                Self::Drifts => " OF d",
                Self::JobRuns | Self::Reconciliations => " OF r",
                _ => "",
            };
            let old = self.old("ctid", "now() - make_interval(secs => $1)");
            format!("ctid = ANY (ARRAY({old} FOR UPDATE{of} SKIP LOCKED))")
        } else {
            let old = self.old("rowid", "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-' || $1 || ' seconds')");
            format!("rowid IN ({old})")
        };
        match self {
            Self::Payloads => {
                format!(
                    "UPDATE {table} SET payload = '{{}}', payload_emptied_at = {now}, updated_at = {now} WHERE {which}"
                )
            }
            _ => format!("DELETE FROM {table} WHERE {which}"),
        }
    }

    /// Empties or deletes one slice of what is older than so many days; returns how many.
    pub(crate) async fn sweep(self, db: &impl ConnectionTrait, days: u32) -> Result<u64, DbErr> {
        let backend = db.get_database_backend();
        let seconds = f64::from(days) * 86_400.0;
        execute(db, &self.statement(backend), vec![seconds.into(), i64::from(self.slice(backend)).into()]).await
    }
}

fn choose_number(backend: DbBackend, postgres: u32, sqlite: u32) -> u32 {
    if backend == DbBackend::Postgres { postgres } else { sqlite }
}
