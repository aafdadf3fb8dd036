//! What a request begins and does not wait for. It ends with the server: told to stop, and given a little time.

use std::time::Duration;

use billing::{
    panics::survived,
    progress::Progress,
    reconcile::{Begun, Broken},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{app::App, observe};

/// Everything that runs in the background of one server. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Background {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Background {
    /// Tells everything to end, and waits for it at most so long; false where something had not ended by then.
    pub async fn end(&self, within: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(within, self.tasks.wait()).await.is_ok()
    }
}

/// Runs a reconciliation to its end, whoever asked for it being long gone.
pub(crate) fn reconcile(app: &App, run: Begun) {
    let App { background, metrics, nudge, .. } = app.clone();
    let stop = background.stop.clone();
    background.tasks.spawn(async move {
        let id = run.id();
        let Ok(ended) = survived(run.run(&Progress::default(), &stop)).await else {
            tracing::error!(reconciliation = %id, after_panic = true, "a reconciliation panicked, which is a bug in Trueup; it is taken for dead soon");
            return;
        };
        let report = match ended {
            Ok(report) => report,
            Err(Broken { source, report }) => {
                tracing::error!(reconciliation = %id, error = %source, "the database broke off a reconciliation");
                *report
            }
        };
        observe::reconciled(&metrics, &report);
        if report.repaired > 0 {
            // Events that waited for an owner may go on.
            nudge.notify_one();
        }
        tracing::info!(
            reconciliation = %id,
            mode = %report.mode,
            outcome = %report.outcome,
            scanned = report.scanned,
            drifted = report.drifted,
            repaired = report.repaired,
            "a reconciliation has ended"
        );
    });
}
