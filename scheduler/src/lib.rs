//! Jobs that run by the clock: on one replica at a time, never beside themselves, caught up when missed, with a history.
//!
//! - [`job`]: what a job is and what a run ends with
//! - [`jobs`]: every job, one file each
//! - [`tools`]: what jobs work with; [`observers`]: who is told what came of it

pub mod job;
pub mod jobs;
pub mod observers;
pub mod tools;

pub use job::{AnyJob, Job, JobContext, JobError, JobSpec, Missed};
pub use observers::{Observer, Observers};
pub use tools::Tools;
