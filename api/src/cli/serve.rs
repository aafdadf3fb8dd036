//! `trueup serve`, and what it says when it has started.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use billing::events;
use metrics::Metrics;

use super::output;
use crate::{
    config::{
        Config,
        development::{self, DevelopmentSecrets},
    },
    serve::{Parts, Started, Stopped, run as run_server},
    telemetry,
};

/// For the last reports to reach Sentry.
const REPORTS: Duration = Duration::from_secs(1);

/// Options of `serve`.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    /// Only receive and answer; other processes apply the events
    #[arg(long)]
    no_processor: bool,
    /// Run no jobs; other processes do
    #[arg(long)]
    no_scheduler: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode> {
    let mut config = Config::load()?;
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), events::event_types()));
    let reports = telemetry::server(&config, &metrics)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let made = if config.development { Some(development::read_or_make(&config.data)?) } else { None };
    if let Some(secrets) = &made {
        config.adopt(secrets);
    }
    let database = config.database_shown();
    let announce = |started: Started| {
        if made.is_some() && !started.address.ip().is_loopback() {
            tracing::warn!(
                "development secrets are in use on an address that other machines can reach; set STRIPE_WEBHOOK_SECRET, TRUEUP_API_TOKEN \
                 and TRUEUP_ADMIN_TOKEN"
            );
        }
        let mut text = welcome(&started.url(), &database, &command_name(), made.as_ref(), io::stdout().is_terminal());
        if let Some(figures) = started.figures {
            let scheme = if started.encrypted { "https" } else { "http" };
            let _ =
                write!(text, "\nThe figures for Prometheus have a listener of their own: {scheme}://{figures}/metrics");
        }
        // A server goes on when nobody listens to what it says.
        let _ = output::line(text);
    };
    let parts = Parts { processor: !args.no_processor, scheduler: !args.no_scheduler };
    let stopped = run_server(config, parts, metrics, announce).await;
    if let Err(error) = &stopped {
        tracing::error!(%error, "the server ended");
    }
    // Whoever told it twice to stop waits for nothing.
    if !matches!(stopped, Ok(Stopped::AtOnce))
        && let Some(reports) = reports
        && !tokio::task::spawn_blocking(move || reports.close(REPORTS)).await.unwrap_or(false)
    {
        tracing::warn!("Sentry did not take the last reports in time");
    }
    match stopped? {
        Stopped::InOrder => Ok(ExitCode::SUCCESS),
        // As a shell tells of a process that Ctrl-C ended.
        Stopped::AtOnce => Ok(ExitCode::from(130)),
    }
}

fn welcome(url: &str, database: &str, command: &str, made: Option<&DevelopmentSecrets>, terminal: bool) -> String {
    let webhook = format!("{url}/api/v1/stripe/webhook");
    let mut text = format!(
        "Trueup {} listens on {url}\n  \
         database   {database}\n  \
         webhooks   {webhook}\n  \
         docs       {url}/docs\n\
         Forward the events of your Stripe account (set STRIPE_WEBHOOK_SECRET to the secret it prints):\n  \
         stripe listen --forward-to {webhook}\n\
         Or see it work without one, from another terminal:\n  \
         {command} trigger checkout.session.completed --email user@example.com --tier pro",
        env!("CARGO_PKG_VERSION"),
    );
    if !url.ends_with(":8000") {
        let _ = write!(text, " --url {url}");
    }
    let Some(DevelopmentSecrets { webhook_secret, api_token, admin_token, path }) = made else { return text };
    let path = path.display();
    // A terminal forgets; a log does not.
    let _ = if terminal {
        write!(
            text,
            "\nDevelopment secrets, since none are configured (kept in {path}):\n  \
             STRIPE_WEBHOOK_SECRET  {}\n  \
             TRUEUP_API_TOKEN       {}\n  \
             TRUEUP_ADMIN_TOKEN     {}",
            webhook_secret.expose(),
            api_token.expose(),
            admin_token.expose()
        )
    } else {
        write!(
            text,
            "\nDevelopment secrets are in use, since none are configured: \
             STRIPE_WEBHOOK_SECRET, TRUEUP_API_TOKEN and TRUEUP_ADMIN_TOKEN are in {path}"
        )
    };
    text
}

/// How this program is called again from here: by its name where the shell finds it, else by its path.
fn command_name() -> String {
    const NAME: &str = "trueup";
    let Ok(program) = std::env::current_exe() else { return NAME.to_owned() };
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| program.parent().is_some_and(|own| own == Path::new(&folder)))
    });
    if found {
        return NAME.to_owned();
    }
    let here = std::env::current_dir().ok();
    let relative = here.and_then(|here| program.strip_prefix(here).ok().map(Path::to_owned));
    relative.unwrap_or(program).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn development_secrets_are_shown_on_a_terminal_only() {
        let secrets = DevelopmentSecrets {
            webhook_secret: Secret::new("whsec_dev_1"),
            api_token: Secret::new("api_dev_2"),
            admin_token: Secret::new("admin_dev_3"),
            path: "data/dev-secrets.toml".into(),
        };
        let text = |terminal| welcome("http://127.0.0.1:8000", "SQLite", "trueup", Some(&secrets), terminal);
        for secret in ["whsec_dev_1", "api_dev_2", "admin_dev_3"] {
            assert!(text(true).contains(secret));
            assert!(!text(false).contains(secret));
        }
        assert!(text(false).contains("data/dev-secrets.toml"));
    }

    #[test]
    fn the_next_steps_are_told() {
        let text = welcome("http://127.0.0.1:9000", "SQLite, data/trueup.db", "trueup", None, true);
        for part in [
            "http://127.0.0.1:9000/docs",
            "stripe listen --forward-to http://127.0.0.1:9000/api/v1/stripe/webhook",
            "trueup trigger checkout.session.completed --email user@example.com --tier pro --url http://127.0.0.1:9000",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}
