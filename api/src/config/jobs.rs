//! `[jobs.<name>]`: how each job runs.

use std::{collections::BTreeMap, time::Duration};

use scheduler::{BadSchedule, JobSettings, JobSpec, Missed, jobs};

use super::read::{Mistakes, Section};

/// Longest time one run may be given.
const LONGEST: Duration = Duration::from_hours(24);

/// Longest jitter: beyond it, a schedule says more.
const WIDEST: Duration = Duration::from_hours(1);

/// The settings of every job there is: its own, and what the file says otherwise.
pub(super) fn jobs(root: &mut Section, mistakes: &mut Mistakes) -> BTreeMap<&'static str, JobSettings> {
    let mut section = root.section(mistakes, "jobs");
    let mut settings = BTreeMap::new();
    for job in jobs::all() {
        let spec = job.spec();
        let table = section.section(mistakes, spec.name);
        settings.insert(spec.name, one(table, mistakes, &spec));
    }
    section.finish(mistakes);
    settings
}

fn one(mut section: Section, mistakes: &mut Mistakes, spec: &JobSpec) -> JobSettings {
    let default = JobSettings::of(spec);
    let schedule = section.text(mistakes, "schedule").and_then(|text| {
        let parsed = text.parse();
        parsed.map_err(|error| mistakes.add(section.name("schedule"), error, BadSchedule::RIGHT)).ok()
    });
    let missed = section.text(mistakes, "missed").and_then(|text| {
        let found = [Missed::Once, Missed::All, Missed::Skip].into_iter().find(|missed| missed.as_str() == text);
        if found.is_none() {
            let right = "write once (the last missed slot runs), all (each of them) or skip (none)";
            mistakes.add(section.name("missed"), format_args!("`{text}` is no policy"), right);
        }
        found
    });
    let enabled = section.boolean(mistakes, "enabled");
    let timeout = section.duration(mistakes, "timeout", &(Duration::from_secs(1)..=LONGEST));
    let jitter = section.duration(mistakes, "jitter", &(Duration::ZERO..=WIDEST));
    section.finish(mistakes);
    JobSettings {
        schedule: schedule.unwrap_or(default.schedule),
        enabled: enabled.unwrap_or(default.enabled),
        timeout: timeout.unwrap_or(default.timeout),
        jitter: jitter.unwrap_or(default.jitter),
        missed: missed.unwrap_or(default.missed),
    }
}
