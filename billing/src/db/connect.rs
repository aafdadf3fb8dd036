//! Connecting to PostgreSQL, straight or through a pooler.

use std::{io, sync::Arc, time::Duration};

use sea_orm::{
    DatabaseConnection, DbErr, RuntimeErr, SqlxPostgresConnector,
    sqlx::{
        self, AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _,
        postgres::{PgConnectOptions, PgPoolOptions},
        raw_sql,
    },
};

use super::{
    ACQUIRE_LEVEL,
    options::{DbOptions, Pooler},
};

/// A parameter of the URL by which hosts tell other libraries of a pooler (Prisma's, which Supabase shows); our word for it is `database.pooler`.
const POOLER_PARAMETER: &str = "pgbouncer=true";

/// In which order two connections are asked for the server's process behind them: irregular, so that no pooler which hands its servers out in
/// turn looks like none.
const ASKED: [usize; 8] = [0, 1, 1, 0, 0, 1, 0, 1];

/// A connection that has been idle for so long is looked at before it is used.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How long a connection that is looked at may take to answer. Shorter than anybody waits for a connection.
pub(super) const ALIVE: Duration = Duration::from_secs(1);

/// What came of it.
pub(super) struct Connected {
    pub(super) shared: DatabaseConnection,
    pub(super) reserved: Option<DatabaseConnection>,
    /// How a transaction begins behind a pooler in transaction mode; none where there is none.
    pub(super) begin: Option<Arc<str>>,
}

pub(super) async fn connect(url: &str, options: &DbOptions) -> Result<Connected, DbErr> {
    let (url, told) = without_pooler_parameter(url);
    let pg = connect_options(&url, options).map_err(refused)?;
    let pooler = if told && options.pooler == Pooler::Auto { Pooler::Transaction } else { options.pooler };
    // Once without the pool: it would try until its time is up, and then know only that.
    let shares = match tokio::time::timeout(options.acquire_timeout, look(&pg, pooler)).await {
        Ok(looked) => looked.map_err(refused)?,
        Err(_) => return Err(refused(sqlx::Error::PoolTimedOut)),
    };
    if shares {
        tracing::info!(
            "behind a pooler in transaction mode: statements are not kept prepared, and limits are set in each transaction"
        );
    }
    let reserved = options.reserved_connections.min(options.max_connections.saturating_sub(1));
    let pool = |most| SqlxPostgresConnector::from_sqlx_postgres_pool(pool(&pg, options, most, shares));
    Ok(Connected {
        shared: pool(options.max_connections - reserved),
        reserved: (reserved > 0).then(|| pool(reserved)),
        begin: shares.then(|| begin_with_limits(options)),
    })
}

/// As the URL and the options say.
fn connect_options(url: &str, options: &DbOptions) -> Result<PgConnectOptions, sqlx::Error> {
    let mut pg: PgConnectOptions = url.parse()?;
    if let Some(path) = parameter(url, &["sslrootcert", "ssl-root-cert", "ssl-ca"])
        && let Err(error) = std::fs::metadata(&path)
    {
        return Err(sqlx::Error::Configuration(format!("sslrootcert: the file {path} cannot be read: {error}").into()));
    }
    // Poolers refuse this parameter, and since PostgreSQL 12 it changes nothing that we read.
    pg = pg.extra_float_digits(None);
    if let Some(name) = options.application_name.as_deref() {
        pg = pg.application_name(name);
    } else if pg.get_application_name().is_none() {
        pg = pg.application_name("trueup");
    }
    pg = pg.disable_statement_logging();
    if let Some(threshold) = options.slow_statement {
        pg = pg.log_slow_statements(log::LevelFilter::Warn, threshold);
    }
    Ok(pg)
}

fn pool(pg: &PgConnectOptions, options: &DbOptions, most: u32, pooled: bool) -> sqlx::PgPool {
    let mut pool = PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(options.acquire_timeout)
        .acquire_time_level(ACQUIRE_LEVEL)
        .test_before_acquire(false)
        .before_acquire(|connection, idle| {
            Box::pin(async move {
                if idle.idle_for >= LOOK_AFTER {
                    alive(connection).await?;
                }
                Ok(true)
            })
        })
        // The pool looks by itself at what comes back to it, and would wait for ever where the server is gone without a word.
        .after_release(|connection, _| Box::pin(async move { alive(connection).await.map(|()| true) }));
    if !pooled {
        let set = options.limits().map(|(name, millis)| format!("SET {name} = {millis}")).join("; ");
        pool = pool.after_connect(move |connection, _| {
            let set = set.clone();
            Box::pin(async move { connection.execute(AssertSqlSafe(set)).await.map(|_| ()) })
        });
    }
    pool.connect_lazy_with(pg.clone())
}

/// Whether a connection answers, within [`ALIVE`].
async fn alive(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match tokio::time::timeout(ALIVE, connection.ping()).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the connection does not answer"))),
    }
}

/// In one message, so that it takes no longer than a plain `BEGIN`.
fn begin_with_limits(options: &DbOptions) -> Arc<str> {
    let limits = options.limits().map(|(name, millis)| format!("; SET LOCAL {name} = {millis}"));
    format!("BEGIN{}", limits.concat()).into()
}

/// Whether the server is reached through a pooler in transaction mode; an error where it is not reached at all.
async fn look(pg: &PgConnectOptions, pooler: Pooler) -> Result<bool, sqlx::Error> {
    let first = PgConnection::connect_with(pg).await?;
    if pooler != Pooler::Auto {
        first.close().await?;
        return Ok(pooler == Pooler::Transaction);
    }
    let mut connections = [first, PgConnection::connect_with(pg).await?];
    let mut seen: [Option<i32>; 2] = [None; 2];
    let mut shared = false;
    for asked in ASKED {
        let process = process(&mut connections[asked]).await?;
        // Two sessions with one process, or one session with two.
        shared = seen[1 - asked] == Some(process) || seen[asked].is_some_and(|before| before != process);
        if shared {
            break;
        }
        seen[asked] = Some(process);
    }
    for connection in connections {
        connection.close().await?;
    }
    Ok(shared)
}

/// The process of the server behind a connection at this moment. One message: it works behind every pooler.
async fn process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// The URL without the parameter that only tells of a pooler, and whether it did.
fn without_pooler_parameter(url: &str) -> (String, bool) {
    let Some((head, query)) = url.split_once('?') else { return (url.to_owned(), false) };
    let (told, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(|parameter| *parameter == POOLER_PARAMETER);
    let url = if rest.is_empty() { head.to_owned() } else { format!("{head}?{}", rest.join("&")) };
    (url, !told.is_empty())
}

/// The value of a parameter of the URL, under one of its names.
fn parameter(url: &str, names: &[&str]) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    url.query_pairs().find(|(name, _)| names.contains(&&**name)).map(|(_, value)| value.into_owned())
}

fn refused(error: sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_url_says_of_a_pooler_is_taken_from_it() {
        let of = without_pooler_parameter;
        assert_eq!(of("postgres://h/d"), ("postgres://h/d".to_owned(), false));
        assert_eq!(of("postgres://h/d?pgbouncer=true"), ("postgres://h/d".to_owned(), true));
        assert_eq!(
            of("postgres://h/d?sslmode=require&pgbouncer=true"),
            ("postgres://h/d?sslmode=require".to_owned(), true)
        );
    }

    #[test]
    fn a_transaction_behind_a_pooler_begins_with_its_limits() {
        let options = DbOptions { statement_timeout: Duration::from_secs(9), ..DbOptions::default() };
        assert_eq!(
            &*begin_with_limits(&options),
            "BEGIN; SET LOCAL statement_timeout = 9000; SET LOCAL lock_timeout = 3000; \
             SET LOCAL idle_in_transaction_session_timeout = 30000"
        );
    }
}
