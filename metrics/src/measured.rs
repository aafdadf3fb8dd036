//! Gauges that are measured when somebody looks, and left out while nobody can say.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use prometheus::{
    IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{Metrics, families::registered, labels::ScrapePart};

/// What is appended to the help of a family that every process reads from the one database.
macro_rules! shared {
    ($help:literal) => {
        concat!($help, " Read from the database, so every replica tells the same: aggregate with max, not sum.")
    };
}
pub(crate) use shared;

/// Whether a group of gauges is known at present. Clones are one and the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(Arc<AtomicBool>);

impl Known {
    pub(crate) fn set(&self, known: bool) {
        self.0.store(known, Ordering::Release);
    }

    /// The same family, exported only while it is known.
    pub(crate) fn gauge<C: Collector + Clone + 'static>(
        &self,
        registry: &Registry,
        family: prometheus::Result<C>,
    ) -> C {
        let family = family.expect("every family is well-formed");
        let hidden = Measured { family: family.clone(), known: self.clone() };
        registry.register(Box::new(hidden)).expect("every family has a name of its own");
        family
    }
}

struct Measured<C> {
    family: C,
    known: Known,
}

impl<C: Collector> Collector for Measured<C> {
    fn desc(&self) -> Vec<&Desc> {
        self.family.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if self.known.0.load(Ordering::Acquire) { self.family.collect() } else { Vec::new() }
    }
}

/// The parts of a scrape that may be missing.
#[derive(Debug)]
pub(crate) struct Parts {
    up: IntGaugeVec,
    pub(crate) inbox: Known,
    pub(crate) users: Known,
    pub(crate) usage: Known,
    pub(crate) jobs: Known,
    pub(crate) pool: Known,
}

impl Parts {
    pub(crate) fn register(r: &Registry) -> Self {
        let up = registered(
            r,
            IntGaugeVec::new(
                Opts::new(
                    "trueup_scrape_part_up",
                    "1 where this part of the scrape is measured and current; 0 where it could not be, and its gauges are left out: inbox (events, e-mails), users (users, subscriptions), usage (windows that are over), jobs (paused, reconciliations), pool (connections).",
                ),
                &["part"],
            ),
        );
        for part in ScrapePart::ALL {
            up.with_label_values(&[part.as_str()]).set(0);
        }
        let known = Known::default;
        Self { up, inbox: known(), users: known(), usage: known(), jobs: known(), pool: known() }
    }

    pub(crate) fn set(&self, part: ScrapePart, up: bool) {
        let known = match part {
            ScrapePart::Inbox => &self.inbox,
            ScrapePart::Users => &self.users,
            ScrapePart::Usage => &self.usage,
            ScrapePart::Jobs => &self.jobs,
            ScrapePart::Pool => &self.pool,
        };
        known.set(up);
        self.up.with_label_values(&[part.as_str()]).set(i64::from(up));
    }
}

impl Metrics {
    /// A part could not be measured: its gauges are left out until it is, for what they last told may be wrong by now.
    pub fn part_unknown(&self, part: ScrapePart) {
        self.parts.set(part, false);
    }

    /// Exports what is not known as well, for lists of families.
    pub(crate) fn show_everything(&self) {
        for part in ScrapePart::ALL {
            self.parts.set(*part, true);
        }
        self.stripe.clock_known.set(true);
        self.users_counted(&crate::Counted::default());
    }
}
