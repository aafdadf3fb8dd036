//! A panic becomes a log line like any other, with whatever the spans around it tell; and so a report.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{PanicHookInfo, set_hook},
    sync::Arc,
    thread,
};

use metrics::Metrics;

/// Every panic of this process is logged and counted from now on.
pub(super) fn log(metrics: Arc<Metrics>) {
    set_hook(Box::new(move |panic| {
        metrics.panicked();
        tell(panic);
    }));
}

fn tell(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let current = thread::current();
    let thread = current.name().unwrap_or("unnamed");
    // What was put together while the program ran may hold anything, a payload among it; what stands in the source may not.
    let said =
        panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("what it says may hold data and is left out");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        panic = location,
        said,
        thread,
        backtrace,
        "a panic, which is a mistake in Trueup; please report it"
    );
}
