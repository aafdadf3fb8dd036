//! What the jobs do. Job names are a closed list, told at start.

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::{
    Metrics,
    families::{counters, registered},
    labels::{JobOutcome, ScrapePart},
    measured::{Parts, shared},
};

/// Seconds of a run: most are done at once, a walk through all of Stripe takes minutes.
const RUN_SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// Not `job`: that is the name of whatever is scraped, and Prometheus would rename ours to `exported_job`.
const LABEL: &str = "job_name";

#[derive(Debug)]
pub(crate) struct JobFamilies {
    runs: IntCounterVec,
    seconds: HistogramVec,
    last_success: GaugeVec,
    next_run: GaugeVec,
    running: IntGaugeVec,
    lease_held: IntGaugeVec,
    missed_slots: IntCounterVec,
    paused: IntGaugeVec,
    enabled: IntGaugeVec,
}

impl JobFamilies {
    pub(crate) fn register(r: &Registry, parts: &Parts) -> Self {
        let gauges = |name: &str, help: &str| registered(r, GaugeVec::new(Opts::new(name, help), &[LABEL]));
        let flags = |name: &str, help: &str| registered(r, IntGaugeVec::new(Opts::new(name, help), &[LABEL]));
        Self {
            runs: counters(
                r,
                "trueup_job_runs_total",
                "Runs of jobs that ended in this process, by outcome.",
                &[LABEL, "outcome"],
            ),
            seconds: registered(
                r,
                HistogramVec::new(
                    HistogramOpts::new(
                        "trueup_job_duration_seconds",
                        "Time from the start of a job's run to its end, whatever its outcome.",
                    )
                    .buckets(RUN_SECONDS.to_vec()),
                    &[LABEL],
                ),
            ),
            last_success: gauges(
                "trueup_job_last_success_timestamp_seconds",
                "When the job last succeeded on any process, in seconds since 1970; 0 where it never did.",
            ),
            next_run: gauges(
                "trueup_job_next_run_timestamp_seconds",
                "When the job's next slot comes, in seconds since 1970; 0 while it is paused or switched off.",
            ),
            running: flags("trueup_job_running", "1 while this process runs the job, else 0."),
            lease_held: flags("trueup_job_lease_held", "1 while this process holds the job's lease, else 0."),
            missed_slots: counters(
                r,
                "trueup_job_missed_slots_total",
                "Slots of the job that passed and are not caught up.",
                &[LABEL],
            ),
            paused: parts.jobs.gauge(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "trueup_job_paused",
                        shared!("1 while an operator has paused the job, on every process, else 0."),
                    ),
                    &[LABEL],
                ),
            ),
            enabled: flags(
                "trueup_job_enabled",
                "1 where this process runs the job when its time comes; 0 where the configuration switches the job, or all of them, off.",
            ),
        }
    }
}

impl Metrics {
    /// There is such a job: its series begin at 0. `job` must come from the list of jobs, here and below.
    pub fn job(&self, job: &str) {
        let of = &self.jobs;
        for outcome in JobOutcome::ALL {
            let _ = of.runs.with_label_values(&[job, outcome.as_str()]);
        }
        let _ = of.seconds.with_label_values(&[job]);
        let _ = of.missed_slots.with_label_values(&[job]);
        let _ = (of.last_success.with_label_values(&[job]), of.next_run.with_label_values(&[job]));
        let _ = (of.running.with_label_values(&[job]), of.lease_held.with_label_values(&[job]));
        let _ = (of.enabled.with_label_values(&[job]), of.paused.with_label_values(&[job]));
    }

    /// Whether this process runs a job when its time comes.
    pub fn job_enabled(&self, job: &str, enabled: bool) {
        self.jobs.enabled.with_label_values(&[job]).set(i64::from(enabled));
    }

    /// What the database knows of the jobs was read: each with whether it is paused; and when a reconciliation last came to its end, in
    /// seconds since 1970.
    pub fn jobs_measured<'j>(&self, paused: impl IntoIterator<Item = (&'j str, bool)>, reconciled: Option<i64>) {
        for (job, paused) in paused {
            self.jobs.paused.with_label_values(&[job]).set(i64::from(paused));
        }
        self.reconcile.last_complete(reconciled);
        self.parts.set(ScrapePart::Jobs, true);
    }

    /// A job was looked at: when it runs next, and when it succeeded last, in seconds since 1970.
    pub fn job_looked(&self, job: &str, next_run: Option<f64>, last_success: Option<f64>) {
        self.jobs.next_run.with_label_values(&[job]).set(next_run.unwrap_or(0.0));
        self.jobs.last_success.with_label_values(&[job]).set(last_success.unwrap_or(0.0));
    }

    /// So many slots of a job were passed over.
    pub fn job_missed(&self, job: &str, slots: u64) {
        self.jobs.missed_slots.with_label_values(&[job]).inc_by(slots);
    }

    /// This process took a job's lease, and runs it.
    pub fn job_started(&self, job: &str) {
        self.jobs.running.with_label_values(&[job]).set(1);
        self.jobs.lease_held.with_label_values(&[job]).set(1);
    }

    /// This process no longer holds a job's lease.
    pub fn job_lease_lost(&self, job: &str) {
        self.jobs.lease_held.with_label_values(&[job]).set(0);
    }

    /// A run is over, and its lease with it.
    pub fn job_ended(&self, job: &str, outcome: JobOutcome, seconds: f64) {
        self.jobs.running.with_label_values(&[job]).set(0);
        self.jobs.lease_held.with_label_values(&[job]).set(0);
        self.jobs.runs.with_label_values(&[job, outcome.as_str()]).inc();
        self.jobs.seconds.with_label_values(&[job]).observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'t>(text: &'t str, series: &str) -> &'t str {
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no series {series} in:\n{text}"))
    }

    #[test]
    fn a_known_job_begins_at_zero_and_tells_how_it_runs() {
        let metrics = Metrics::new("test", []);
        metrics.job("rest");
        let text = metrics.render();
        for outcome in JobOutcome::ALL {
            let series = format!("trueup_job_runs_total{{job_name=\"rest\",outcome=\"{}\"}}", outcome.as_str());
            assert_eq!(line(&text, &series), "0");
        }
        for family in ["running", "lease_held", "missed_slots_total", "duration_seconds_count"] {
            assert_eq!(line(&text, &format!("trueup_job_{family}{{job_name=\"rest\"}}")), "0");
        }
        metrics.job_looked("rest", Some(1_800_000_000.0), None);
        metrics.job_missed("rest", 3);
        metrics.job_started("rest");
        let text = metrics.render();
        assert_eq!(line(&text, "trueup_job_next_run_timestamp_seconds{job_name=\"rest\"}"), "1800000000");
        assert_eq!(line(&text, "trueup_job_last_success_timestamp_seconds{job_name=\"rest\"}"), "0");
        assert_eq!(line(&text, "trueup_job_missed_slots_total{job_name=\"rest\"}"), "3");
        assert_eq!(line(&text, "trueup_job_running{job_name=\"rest\"}"), "1");
        assert_eq!(line(&text, "trueup_job_lease_held{job_name=\"rest\"}"), "1");
        metrics.job_lease_lost("rest");
        let text = metrics.render();
        assert_eq!(line(&text, "trueup_job_running{job_name=\"rest\"}"), "1");
        assert_eq!(line(&text, "trueup_job_lease_held{job_name=\"rest\"}"), "0");
        metrics.job_enabled("rest", true);
        assert!(!metrics.render().contains("trueup_job_paused"), "the database was not asked yet");
        metrics.jobs_measured([("rest", true)], None);
        metrics.job_ended("rest", JobOutcome::TimedOut, 42.0);
        let text = metrics.render();
        assert_eq!(line(&text, "trueup_job_running{job_name=\"rest\"}"), "0");
        assert_eq!(line(&text, "trueup_job_runs_total{job_name=\"rest\",outcome=\"timed_out\"}"), "1");
        assert_eq!(line(&text, "trueup_job_duration_seconds_sum{job_name=\"rest\"}"), "42");
        assert_eq!(line(&text, "trueup_job_enabled{job_name=\"rest\"}"), "1");
        assert_eq!(line(&text, "trueup_job_paused{job_name=\"rest\"}"), "1");
    }
}
