//! What came of a run.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};

use crate::load::Tally;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Report {
    connections: u32,
    seconds: f64,
    /// The generator's own.
    cpu_seconds: Option<f64>,
    /// Microseconds, ascending.
    latencies: Vec<u32>,
    errors: BTreeMap<String, u32>,
}

impl Report {
    /// Puts together what the connections saw.
    pub(crate) fn new(connections: u32, seconds: f64, cpu_seconds: Option<f64>, tallies: Vec<Tally>) -> Self {
        let mut latencies = Vec::new();
        let mut errors: BTreeMap<String, u32> = BTreeMap::new();
        for tally in tallies {
            latencies.extend(tally.latencies);
            for (what, count) in tally.errors {
                *errors.entry(what).or_default() += count;
            }
        }
        latencies.sort_unstable();
        Self { connections, seconds, cpu_seconds, latencies, errors }
    }

    fn acknowledged(&self) -> u32 {
        u32::try_from(self.latencies.len()).unwrap_or(u32::MAX)
    }

    fn per_second(&self) -> f64 {
        f64::from(self.acknowledged()) / self.seconds.max(0.001)
    }

    /// In milliseconds; the nearest rank. Zero where nothing was acknowledged.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.latencies.len() * percent).div_ceil(100).max(1);
        self.latencies.get(rank - 1).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
    }

    /// For programs.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged(),
            "connections": self.connections,
            "cpu_seconds": self.cpu_seconds,
            "errors": self.errors,
            "latency_ms": {
                "p50": self.percentile(50),
                "p90": self.percentile(90),
                "p99": self.percentile(99),
                "max": self.percentile(100),
            },
            "per_second": rounded(self.per_second(), 10.0),
            "seconds": rounded(self.seconds, 1000.0),
        })
    }
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged in {:.2} s over {} connections: {:.0}/s; latency ms p50 {:.1}, p90 {:.1}, p99 {:.1}, max {:.1}",
            self.acknowledged(),
            self.seconds,
            self.connections,
            self.per_second(),
            self.percentile(50),
            self.percentile(90),
            self.percentile(99),
            self.percentile(100),
        )?;
        if let Some(cpu) = self.cpu_seconds {
            write!(f, "; own processor time {cpu:.2} s")?;
        }
        for (what, count) in &self.errors {
            write!(f, "; {count} × {what}")?;
        }
        Ok(())
    }
}

/// Processor time used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTime(Option<f64>);

impl CpuTime {
    /// Of this process; only Linux tells.
    pub(crate) fn of_this_process() -> Self {
        Self(std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(from_stat))
    }

    /// Seconds used since.
    pub(crate) fn elapsed(self) -> Option<f64> {
        Some(rounded(Self::of_this_process().0? - self.0?, 100.0))
    }
}

/// User and system time of a line of `/proc/*/stat`, which counts in hundredths of seconds.
fn from_stat(line: &str) -> Option<f64> {
    // The second field, in brackets, may hold anything.
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok().map(f64::from);
    Some((ticks()? + ticks()?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let tally = Tally { latencies: (1..=200).rev().map(|ms| ms * 1000).collect(), ..Tally::default() };
        let report = Report::new(1, 2.0, None, vec![tally, Tally::default()]);
        let json = report.to_json();
        assert_eq!(json["latency_ms"], json!({ "p50": 100.0, "p90": 180.0, "p99": 198.0, "max": 200.0 }));
        assert_eq!(json["per_second"], json!(100.0));
    }

    #[test]
    fn a_run_without_a_single_answer_can_be_told() {
        let errors = BTreeMap::from([("503".to_owned(), 2)]);
        let report = Report::new(1, 0.0, None, vec![Tally { errors, ..Tally::default() }]);
        assert_eq!(report.to_json()["latency_ms"]["max"], json!(0.0));
        assert!(report.to_string().ends_with("2 × 503"), "{report}");
    }

    #[test]
    fn processor_time_is_read_past_any_name() {
        let line = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        assert_eq!(from_stat(line), Some(2.0));
    }
}
