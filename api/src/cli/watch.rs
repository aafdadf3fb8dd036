//! Long work at a terminal: how far it has come, and Ctrl-C that stops it in order.

use std::{
    future::Future,
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use billing::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

/// How often the line is drawn anew.
const LOOK: Duration = Duration::from_millis(100);

/// Does the work while it shows how far that has come, on stderr and only on a terminal. The first Ctrl-C cancels `stop`, upon which the work ends by
/// itself; a second one ends the program.
pub(super) async fn watched<T>(
    what: &str,
    unit: &'static str,
    progress: &Progress,
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> T {
    let bar = stderr().is_terminal().then(|| bar(what, unit));
    let mut work = std::pin::pin!(work);
    let mut looks = tokio::time::interval(LOOK);
    let mut told = false;
    loop {
        tokio::select! {
            done = &mut work => {
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                return done;
            }
            _ = looks.tick(), if bar.is_some() => {
                if let Some(bar) = &bar {
                    draw(bar, progress);
                }
            }
            result = tokio::signal::ctrl_c() => {
                if told || result.is_err() {
                    std::process::exit(130);
                }
                told = true;
                stop.cancel();
            }
        }
    }
}

fn bar(what: &str, unit: &'static str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {prefix} {elapsed_precise}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_prefix(unit);
    bar.set_message(what.to_owned());
    bar
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    let done = progress.done();
    // What was expected is an estimate: there may be more.
    if let Some(total) = progress.total() {
        bar.set_length(total.max(done));
    }
    bar.set_position(done);
}
