//! Who is told what a run came to, as the domain's own report: metrics are made of it, where everything is put together.

use std::{fmt, sync::Arc};

use billing::{endpoint, reconcile, recovery};

/// Told of one kind of report.
pub type Observer<R> = Arc<dyn Fn(&R) + Send + Sync>;

/// Whom to tell of what. Nobody, where nothing else is said.
#[derive(Clone)]
pub struct Observers {
    /// A reconciliation has ended, however it did.
    pub reconciled: Observer<reconcile::Report>,
    /// A recovery has ended, however it did.
    pub recovered: Observer<recovery::Report>,
    /// Our endpoint at Stripe was looked at.
    pub endpoint_checked: Observer<endpoint::Report>,
}

impl Default for Observers {
    fn default() -> Self {
        Self { reconciled: Arc::new(|_| {}), recovered: Arc::new(|_| {}), endpoint_checked: Arc::new(|_| {}) }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers").finish_non_exhaustive()
    }
}
