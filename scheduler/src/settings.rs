//! What can be set about a job, and the list of jobs that a process knows, with their settings.

use std::{sync::Arc, time::Duration};

use crate::{AnyJob, JobSpec, Missed, cron::Schedule};

/// How one job runs in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSettings {
    /// When.
    pub schedule: Schedule,
    /// False where its slots are left alone; a person can still run it.
    pub enabled: bool,
    /// How long one run may take.
    pub timeout: Duration,
    /// A slot is taken up by up to so much later, by chance, so that many installations do not call Stripe in one second.
    pub jitter: Duration,
    /// What becomes of missed slots.
    pub missed: Missed,
}

impl JobSettings {
    /// A job's own settings.
    ///
    /// # Panics
    /// Where the job's own schedule is none, which a test of the list of jobs would have told.
    pub fn of(spec: &JobSpec) -> Self {
        let schedule = spec.schedule.parse().expect("a job's own schedule is one: the tests read each");
        Self { schedule, enabled: true, timeout: spec.timeout, jitter: Duration::ZERO, missed: spec.missed }
    }
}

/// A job with its settings.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The job.
    pub job: Arc<dyn AnyJob>,
    /// What is fixed about it.
    pub spec: JobSpec,
    /// What is set about it.
    pub settings: JobSettings,
}

/// Every job this process knows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry(Arc<[Planned]>);

/// There is no such job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no job `{name}`; there are {}", known.join(", "))]
pub struct UnknownJob {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: Vec<&'static str>,
}

impl Registry {
    /// These jobs, each with what `settings` says of it.
    pub fn new(jobs: Vec<Box<dyn AnyJob>>, settings: impl Fn(&JobSpec) -> JobSettings) -> Self {
        let planned = jobs.into_iter().map(|job| {
            let spec = job.spec();
            Planned { job: job.into(), settings: settings(&spec), spec }
        });
        Self(planned.collect())
    }

    /// Every job, in the order in which they were listed.
    pub fn iter(&self) -> impl Iterator<Item = &Planned> {
        self.0.iter()
    }

    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        self.iter().map(|planned| planned.spec.name).collect()
    }

    /// The job of this name.
    pub fn find(&self, name: &str) -> Result<&Planned, UnknownJob> {
        let found = self.iter().find(|planned| planned.spec.name == name);
        found.ok_or_else(|| UnknownJob { name: name.to_owned(), known: self.names() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_job_has_a_name_of_its_own_and_a_schedule_that_can_be_read() {
        let registry = Registry::new(crate::jobs::all(), JobSettings::of);
        let names: BTreeSet<_> = registry.names().into_iter().collect();
        assert_eq!(names.len(), registry.iter().count());
        for planned in registry.iter() {
            let JobSpec { name, about, timeout, .. } = planned.spec;
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}: part of a contract");
            assert!(!about.is_empty() && !about.ends_with('.'), "{name}: {about}");
            assert!(timeout >= Duration::from_secs(1), "{name}");
        }
    }

    #[test]
    fn a_job_nobody_knows_is_told_with_those_there_are() {
        let registry = Registry::new(crate::jobs::all(), JobSettings::of);
        let error = registry.find("retry").expect_err("no job has this name").to_string();
        assert!(error.starts_with("there is no job `retry`; there are retry_pending_webhooks"), "{error}");
    }
}
