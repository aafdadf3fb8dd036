//! How the pool of connections stands.

use sea_orm::{DbBackend, sqlx};

use super::Db;

/// The pool of connections of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolState {
    /// Connections that nobody uses.
    pub idle: u32,
    /// Connections that somebody uses, or that are being made.
    pub in_use: u32,
    /// Callers that wait for one.
    pub waiting: u32,
    /// How many there may be.
    pub most: u32,
}

impl Db {
    /// How the pool stands at this moment, with the connections that are reserved; none once it is closed. It asks nothing of the database.
    pub fn pool(&self) -> Option<PoolState> {
        let (closed, size, idle, most) = [Some(self.connection()), self.reserved.as_ref()]
            .into_iter()
            .flatten()
            .map(|connection| match self.backend() {
                DbBackend::Postgres => look(connection.get_postgres_connection_pool()),
                _ => look(connection.get_sqlite_connection_pool()),
            })
            .fold((false, 0, 0, 0), |sum, one| (sum.0 || one.0, sum.1 + one.1, sum.2 + one.2, sum.3 + one.3));
        if closed {
            return None;
        }
        let idle = idle.min(size);
        let in_use = size - idle;
        // Whoever wants a connection and whoever holds one are counted together; the pool itself does not tell who waits.
        let waiting = self.watch().wanted().saturating_sub(in_use);
        Some(PoolState { idle, in_use, waiting, most })
    }
}

fn look<D: sqlx::Database>(pool: &sqlx::Pool<D>) -> (bool, u32, u32, u32) {
    let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
    (pool.is_closed(), pool.size(), idle, pool.options().get_max_connections())
}
