//! The few words of reconciling that the two databases spell differently.

use sea_orm::DbBackend;

use super::inbox::now;

/// An expression for so many seconds before the database's clock.
pub(crate) fn ago(backend: DbBackend, seconds: u32) -> String {
    if backend == DbBackend::Postgres {
        format!("({} - make_interval(secs => {seconds}))", now(backend))
    } else {
        format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-{seconds} seconds')")
    }
}
