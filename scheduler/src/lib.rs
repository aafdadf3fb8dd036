//! Jobs that run by the clock: on one replica at a time, never beside themselves, caught up when missed, with a history.
//!
//! What a job is:
//! - [`job`]: its trait, and what a run ends with
//! - [`jobs`]: every job, one file each
//! - [`tools`]: what jobs work with; [`observers`]: who is told what a run came to
//! - [`settings`]: what can be set about a job
//!
//! How they run:
//! - [`cron`]: schedules, and the bell
//! - [`slots`]: which slots are to be run; a pure function
//! - [`engine`]: starts and stops all of it; inside, `driver` (one for each job), `lease` (taking up and ending), `run` (one run), `store`
//!   (the statements)
//!
//! What people see of it:
//! - [`control`]: list, pause, resume
//! - [`history`] of runs
//! - [`news`]: for metrics

pub mod control;
pub mod cron;
mod driver;
pub mod engine;
pub mod history;
pub mod job;
pub mod jobs;
mod lease;
pub mod news;
pub mod observers;
mod run;
pub mod settings;
pub mod slots;
mod store;
pub mod tools;

pub use cron::{BadSchedule, BellError, Schedule};
pub use engine::{Engine, EngineOptions, Handle, RunNowError, run_here};
pub use history::JobRun;
pub use job::{AnyJob, Job, JobContext, JobError, JobSpec, Missed};
pub use news::{News, Observer};
pub use observers::Observers;
pub use settings::{JobSettings, Planned, Registry, UnknownJob};
pub use tools::Tools;
