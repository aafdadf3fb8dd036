//! A server of this program's own, in a process of its own: for `simulate` and `demo`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use simulator::Target;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long a server may take to start.
const START: Duration = Duration::from_mins(1);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// What the server is to be.
#[derive(Debug, Default)]
pub(super) struct Wanted<'w> {
    /// Where it keeps its data; a folder that is removed in the end where none is given.
    pub(super) data: Option<&'w Path>,
    /// Its database; a SQLite file in that folder where none is given.
    pub(super) database: Option<&'w str>,
    /// Where it listens; a free port where nothing is said.
    pub(super) listen: Option<&'w str>,
    /// Where the simulated Stripe is, with its API key; without it the server has webhooks alone.
    pub(super) stripe: Option<(&'w str, &'w str)>,
    /// Webhook secrets.
    pub(super) secrets: usize,
}

/// A running server. Killed where it is dropped without having been stopped.
#[derive(Debug)]
pub(super) struct OwnServer {
    child: Child,
    /// How to reach it.
    pub(super) target: Target,
    /// Its database.
    pub(super) database: String,
    /// What it writes.
    pub(super) log: PathBuf,
    _folder: Option<TempDir>,
}

fn random() -> String {
    hex::encode(rand::random::<[u8; 20]>())
}

impl OwnServer {
    /// Starts one and waits until it listens.
    pub(super) async fn start(wanted: Wanted<'_>) -> Result<Self> {
        let (folder, data) = if let Some(data) = wanted.data {
            std::fs::create_dir_all(data).with_context(|| format!("the folder {} cannot be made", data.display()))?;
            (None, std::path::absolute(data)?)
        } else {
            let folder = TempDir::with_prefix("trueup-").context("no temporary folder can be made")?;
            let path = folder.path().to_owned();
            (Some(folder), path)
        };
        let database =
            wanted.database.map_or_else(|| format!("sqlite://{}", data.join("trueup.db").display()), str::to_owned);
        let target = Target {
            url: String::new(),
            api_token: format!("api_sim_{}", random()),
            admin_token: format!("admin_sim_{}", random()),
            webhook_secrets: (0..wanted.secrets.max(1)).map(|_| format!("whsec_sim_{}", random())).collect(),
        };
        let log = data.join("server.log");
        let written = std::fs::File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            // Its own settings, and none of this folder's.
            .current_dir(&data)
            .env_clear()
            .env("DATABASE_URL", &database)
            .env("TRUEUP_LISTEN", wanted.listen.unwrap_or("127.0.0.1:0"))
            .env("TRUEUP_DATA", &data)
            .env("STRIPE_WEBHOOK_SECRET", target.webhook_secrets.join(","))
            .env("STRIPE_LIVEMODE", "false")
            .env("TRUEUP_API_TOKEN", &target.api_token)
            .env("TRUEUP_ADMIN_TOKEN", &target.admin_token)
            .env("TRUEUP_DOCS", "open")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(written)
            .kill_on_drop(true);
        if let Some((url, key)) = wanted.stripe {
            command.env("STRIPE_API_BASE", url).env("STRIPE_SECRET_KEY", key);
        }
        for name in ["TRUEUP_LOG", "RUST_BACKTRACE", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut child = command.spawn().context("the server could not be started")?;
        let out = child.stdout.take().context("the server's output is asked for above")?;
        let mut lines = BufReader::new(out).lines();
        let listening = timeout(START, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some((_, url)) = line.split_once(" listens on ") {
                    return Some(url.trim().to_owned());
                }
            }
            None
        });
        let Ok(Some(url)) = listening.await else {
            let told = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the server did not start; it says:\n{}", told.trim());
        };
        // Whatever else it says is read, so that it never waits for a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, target: Target { url, ..target }, database, log, _folder: folder })
    }

    /// Tells it to stop, and waits until it has; a server that does not is killed.
    pub(super) async fn stop(mut self) {
        if let Some(id) = self.child.id() {
            // The one way to send a signal without unsafe code.
            let told = Command::new("kill").arg("-TERM").arg(id.to_string()).stderr(Stdio::null()).status().await;
            if told.is_ok_and(|status| status.success()) && timeout(STOP, self.child.wait()).await.is_ok() {
                return;
            }
        }
        let _ = self.child.kill().await;
    }
}

/// Cancelled by Ctrl-C or SIGTERM: a server of one's own is not left behind.
pub(super) fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        wait_for_signal().await;
        told.cancel();
    });
    stop
}

async fn wait_for_signal() {
    #[cfg(unix)]
    if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = tokio::signal::ctrl_c() => return,
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
