//! A server of this program's own, in a process of its own: for `simulate` and `demo`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, SecondsFormat};
use serde_json::Value;
use simulator::{Recover, Target};
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
    /// Its settings beyond those, as in `trueup.toml`.
    pub(super) settings: &'w str,
}

/// Settings of a server that runs under `simulate` or `demo`, in its data folder.
const SETTINGS: &str = "simulated.toml";

/// This program's other commands, with the settings of a server.
#[derive(Debug, Clone)]
pub(super) struct Commands {
    folder: Option<PathBuf>,
    /// None: what this process was given.
    environment: Option<Vec<(String, OsString)>>,
}

impl Commands {
    /// For a server that is configured as this process.
    pub(super) fn as_here() -> Self {
        Self { folder: None, environment: None }
    }

    fn command(&self) -> Result<Command> {
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let mut command = Command::new(program);
        if let Some(environment) = &self.environment {
            command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// `trueup recover --since`, where the server has a key.
    pub(super) fn can_recover(&self, without_key: bool) -> Option<Box<Recover>> {
        let commands = self.clone();
        let recovering: Box<Recover> = Box::new(move |since| {
            let commands = commands.clone();
            Box::pin(async move { commands.recover(since).await })
        });
        (!without_key).then_some(recovering)
    }

    async fn recover(&self, since: i64) -> Result<Value, String> {
        let since = DateTime::from_timestamp(since, 0).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true);
        let mut command = self.command().map_err(|error| format!("{error:#}"))?;
        command.args(["recover", "--json", "--since", &since]);
        let ran = command.output().await.map_err(|error| format!("`trueup recover` could not be started: {error}"))?;
        if ran.status.success() {
            return serde_json::from_slice(&ran.stdout).map_err(|error| format!("`trueup recover --json`: {error}"));
        }
        Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned())
    }
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
    /// Other commands with its settings.
    pub(super) commands: Commands,
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
        // Its own settings, and none of this folder's.
        let settings = data.join(SETTINGS);
        std::fs::write(&settings, wanted.settings)
            .with_context(|| format!("{} cannot be written", settings.display()))?;
        let mut environment: Vec<(String, OsString)> = vec![
            ("DATABASE_URL".to_owned(), database.clone().into()),
            ("TRUEUP_CONFIG".to_owned(), settings.into()),
            ("TRUEUP_LISTEN".to_owned(), wanted.listen.unwrap_or("127.0.0.1:0").into()),
            ("TRUEUP_DATA".to_owned(), data.clone().into()),
            ("STRIPE_WEBHOOK_SECRET".to_owned(), target.webhook_secrets.join(",").into()),
            ("STRIPE_LIVEMODE".to_owned(), "false".into()),
            ("TRUEUP_API_TOKEN".to_owned(), target.api_token.clone().into()),
            ("TRUEUP_ADMIN_TOKEN".to_owned(), target.admin_token.clone().into()),
            ("TRUEUP_DOCS".to_owned(), "open".into()),
        ];
        if let Some((url, key)) = wanted.stripe {
            environment.push(("STRIPE_API_BASE".to_owned(), url.into()));
            environment.push(("STRIPE_SECRET_KEY".to_owned(), key.into()));
        }
        for name in ["TRUEUP_LOG", "RUST_BACKTRACE", "TMPDIR"] {
            environment.extend(std::env::var_os(name).map(|value| (name.to_owned(), value)));
        }
        let commands = Commands { folder: Some(data), environment: Some(environment) };
        let mut command = commands.command()?;
        command.arg("serve").stdout(Stdio::piped()).stderr(written);
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
        Ok(Self { child, target: Target { url, ..target }, database, log, commands, _folder: folder })
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
