//! What a process says, and when it stumbles.

use prometheus::{IntCounter, IntCounterVec, Registry};

use crate::{
    Metrics,
    families::{counters, registered},
    labels::LogLevel,
};

#[derive(Debug)]
pub(crate) struct ProcessFamilies {
    log_lines: IntCounterVec,
    panics: IntCounter,
}

impl ProcessFamilies {
    pub(crate) fn register(r: &Registry) -> Self {
        let families = Self {
            log_lines: counters(r, "trueup_log_lines_total", "Lines written to the log, by level.", &["level"]),
            panics: registered(
                r,
                IntCounter::new(
                    "trueup_panics_total",
                    "Panics in this process, each of them a mistake in Trueup, whatever they ended.",
                ),
            ),
        };
        for level in LogLevel::ALL {
            let _ = families.log_lines.with_label_values(&[level.as_str()]);
        }
        families
    }
}

impl Metrics {
    /// A line was written to the log.
    pub fn line_logged(&self, level: LogLevel) {
        self.process.log_lines.with_label_values(&[level.as_str()]).inc();
    }

    /// Something panicked.
    pub fn panicked(&self) {
        self.process.panics.inc();
    }
}
