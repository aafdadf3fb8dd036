//! How many files, and with them connections, the system grants this process.

/// Where the system does not say.
#[cfg(not(unix))]
const UNKNOWN: usize = 4096;
/// More is of no use here.
#[cfg(unix)]
const ENOUGH: u64 = 1 << 20;

/// Raises the soft limit of open files as far as the hard one allows, and tells it. The soft one is low for the sake of programs that use
/// `select`, which this one does not.
#[cfg(unix)]
pub fn raise() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current.unwrap_or(ENOUGH), limit.maximum.unwrap_or(ENOUGH).min(ENOUGH));
    if soft < hard {
        limit.current = Some(hard);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, soft, hard, "the limit of open files stays as it is");
        }
    }
    let granted = getrlimit(Resource::Nofile).current.unwrap_or(ENOUGH);
    usize::try_from(granted).unwrap_or(usize::MAX)
}

/// Tells the limit.
#[cfg(not(unix))]
pub fn raise() -> usize {
    UNKNOWN
}
