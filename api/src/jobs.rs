//! Puts the scheduler together: its jobs with their settings, what they work with, and what is told of them.

use std::sync::Arc;

use billing::{
    changes::Feed,
    mail::Mailer,
    processor::{self, Processor},
    stripe::Stripe,
    usage::Watch,
};
use entity::{Time, enums::RunOutcome};
use metrics::{Metrics, labels::JobOutcome};
use scheduler::{JobSettings, News, Observer, Registry, Tools, jobs};
use tokio::sync::Notify;

use crate::{config::Config, observe::observers};

/// Every job, as the configuration has it.
pub fn registry(config: &Config) -> Registry {
    let of = |spec: &scheduler::JobSpec| config.jobs.get(spec.name).cloned().unwrap_or_else(|| JobSettings::of(spec));
    Registry::new(jobs::all(), of)
}

/// What jobs share with the rest of a process. A command of its own wakes no feed, and nobody reads its metrics.
pub(crate) struct Ground {
    pub(crate) stripe: Option<Arc<dyn Stripe>>,
    pub(crate) processor: Processor,
    pub(crate) passes: processor::Observer,
    pub(crate) nudge: Arc<Notify>,
    pub(crate) mailer: Option<Arc<Mailer>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) feed: Option<Feed>,
}

/// What jobs work with.
pub(crate) fn tools(config: &Config, ground: Ground) -> Tools {
    let Ground { stripe, processor, passes, nudge, mailer, metrics, feed } = ground;
    let observers = observers(&metrics);
    let rolled = Watch::new(move |rolled| {
        metrics.usage_rolled(rolled.opened, rolled.expired);
        if let Some(feed) = feed.as_ref().filter(|_| rolled.expired > 0) {
            feed.ring();
        }
    });
    Tools {
        catalog: Arc::new(config.catalog.clone()),
        policy: Arc::new(config.policy.clone()),
        intake: Arc::new(config.intake_rules.clone()),
        stripe,
        processor,
        passes,
        nudge,
        rolled,
        mailer,
        retention: config.retention,
        public_url: config.public_url.clone(),
        observers,
    }
}

/// What becomes of jobs, for Prometheus. Every job has its series from the start.
pub(crate) fn observer(metrics: &Arc<Metrics>, registry: &Registry) -> Observer {
    registry.names().into_iter().for_each(|job| metrics.job(job));
    let metrics = Arc::clone(metrics);
    Arc::new(move |news| observe(&metrics, news))
}

fn observe(metrics: &Metrics, news: &News) {
    let seconds = |at: Time| (at - Time::UNIX_EPOCH).as_seconds_f64();
    match *news {
        News::Looked { job, next_run, last_success } => {
            metrics.job_looked(job, next_run.map(seconds), last_success.map(seconds));
        }
        News::Missed { job, slots } => metrics.job_missed(job, slots),
        News::Started { job } => metrics.job_started(job),
        News::LeaseLost { job } => metrics.job_lease_lost(job),
        News::Ended { job, outcome, seconds } => {
            let outcome = match outcome {
                RunOutcome::Succeeded => JobOutcome::Succeeded,
                RunOutcome::Failed => JobOutcome::Failed,
                RunOutcome::Refused => JobOutcome::Refused,
                // Nothing ends running; told so, it was cut off.
                RunOutcome::Interrupted | RunOutcome::Running => JobOutcome::Interrupted,
                RunOutcome::TimedOut => JobOutcome::TimedOut,
                RunOutcome::NotConfigured => JobOutcome::NotConfigured,
            };
            metrics.job_ended(job, outcome, seconds);
        }
    }
}
