//! Runs of jobs, the leases under which they write, and what an operator sets about them.

use sea_orm_migration::prelude::*;

use crate::dialect::run;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000002_jobs"
    }
}

/// A slot whose run was cut off is run again as the next attempt, so the history shows both.
const RUNS: &str = "
CREATE TABLE job_runs (
    id {uuid} PRIMARY KEY DEFAULT {new_uuid},
    job {text} NOT NULL,
    slot {time} NOT NULL,
    attempt {smallint} NOT NULL DEFAULT 1,
    trigger {text} NOT NULL DEFAULT 'scheduled' CHECK (trigger IN ('scheduled', 'catch_up', 'manual')),
    token {bigint} NOT NULL,
    started_at {time} NOT NULL DEFAULT {now},
    finished_at {time},
    outcome {text} NOT NULL DEFAULT 'running'
        CHECK (outcome IN ('running', 'succeeded', 'failed', 'refused', 'interrupted', 'timed_out', 'not_configured')),
    report {json},
    error {text},
    runner {text} NOT NULL DEFAULT '',
    UNIQUE (job, slot, attempt)
)";

const LEASES: &str = "
CREATE TABLE job_leases (
    job {text} PRIMARY KEY,
    holder {text},
    expires_at {time} NOT NULL DEFAULT {now},
    token {bigint} NOT NULL DEFAULT 0
)";

const SETTINGS: &str = "
CREATE TABLE job_settings (
    job {text} PRIMARY KEY,
    paused {bool} NOT NULL DEFAULT {false},
    paused_at {time},
    resumed_at {time},
    schedule {text} NOT NULL DEFAULT '',
    slots_after {time} NOT NULL DEFAULT {now}
)";

/// The key of `job_runs` serves the history of a job, newest slot first, as well.
const INDEXES: &[&str] = &[
    "CREATE INDEX job_runs_started ON job_runs (started_at)",
    "CREATE INDEX job_runs_running ON job_runs (job) WHERE outcome = 'running'",
    "CREATE INDEX job_runs_succeeded ON job_runs (job, finished_at) WHERE outcome = 'succeeded'",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, &[RUNS, LEASES, SETTINGS]).await?;
        run(manager, INDEXES).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, &["DROP TABLE job_settings", "DROP TABLE job_leases", "DROP TABLE job_runs"]).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
