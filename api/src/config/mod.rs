//! The configuration: the environment, and the same keys in lower case in `trueup.toml`. The environment wins.
//!
//! [`Config::from`] is a pure function of both and tells every mistake at once, each as `key: what is wrong; what would be right`.
//! Without any secret or token at all, [`development`] ones are made.

mod database;
pub mod development;
#[cfg(test)]
mod documented;
pub mod edge;
mod jobs;
mod read;
mod sentry;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use billing::{
    catalog::Catalog,
    db::DbOptions,
    inbox::{InboxOptions, IntakeRules},
    mail::{MailOptions, SmtpUrl, Templates},
    policy::Policy,
    processor::ProcessorOptions,
    retention::Retention,
    stripe::ClientOptions,
};
use reqwest::Url;
use scheduler::JobSettings;
use toml::{Table, Value};
use tracing_subscriber::EnvFilter;

pub(crate) use self::read::{nearest, parse_duration};
use self::{
    development::DevelopmentSecrets,
    edge::Edge,
    read::{Mistakes, Section},
};

/// Where the configuration lies when nothing else is said.
const DEFAULT_FILE: &str = "trueup.toml";

/// Shortest token that is taken.
const SHORTEST_TOKEN: usize = 16;

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. Neither print nor log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Everything that can be set, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the database is. Holds a password, perhaps.
    pub database_url: Secret,
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Where Stripe reaches this server, without the path.
    pub public_url: Option<String>,
    /// Secrets that webhooks may be signed with. Empty until [`Config::adopt`] where none is set.
    pub webhook_secrets: Vec<Secret>,
    /// For calls of Stripe's API.
    pub stripe_secret_key: Option<Secret>,
    /// Where Stripe's API is.
    pub stripe_api_base: String,
    /// How it is called.
    pub stripe: ClientOptions,
    /// Which events are ours: mode and Connect account.
    pub intake_rules: IntakeRules,
    /// Opens the host's routes.
    pub api_token: Option<Secret>,
    /// Opens the operator's routes.
    pub admin_token: Option<Secret>,
    /// Where errors are reported.
    pub sentry_dsn: Option<Secret>,
    /// Under which environment.
    pub sentry_environment: String,
    /// As which release.
    pub sentry_release: String,
    /// How e-mails are sent; none without a mail server. The holder's name is set at the start.
    pub mail: Option<MailOptions>,
    /// What is kept for how long.
    pub retention: Retention,
    /// Which log lines are written; none leaves it to the command.
    pub log: Option<String>,
    /// How they look; none: text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
    /// Where files of our own are kept.
    pub data: PathBuf,
    /// The plans.
    pub catalog: Catalog,
    /// The operator's switches.
    pub policy: Policy,
    /// Bounds of the way into the inbox.
    pub inbox: InboxOptions,
    /// How the processor works; the holder's name is set at the start.
    pub processor: ProcessorOptions,
    /// How to connect.
    pub database: DbOptions,
    /// How each job runs.
    pub jobs: BTreeMap<&'static str, JobSettings>,
    /// Encryption, who is let in to what, and bounds of connections.
    pub edge: Edge,
    /// True where nothing secret is set at all: development secrets take their place.
    pub development: bool,
    /// What works, but is probably not meant.
    pub warnings: Vec<String>,
}

impl Config {
    /// Uses these secrets.
    pub fn adopt(&mut self, secrets: &DevelopmentSecrets) {
        self.webhook_secrets = vec![secrets.webhook_secret.clone()];
        self.api_token = Some(secrets.api_token.clone());
        self.admin_token = Some(secrets.admin_token.clone());
    }

    /// True for an embedded database.
    pub fn is_sqlite(&self) -> bool {
        self.database_url.expose().starts_with("sqlite:")
    }

    /// Where the database is, for people: without a password.
    pub fn database_shown(&self) -> String {
        let url = self.database_url.expose();
        if let Some(path) = sqlite_path(url) {
            return format!("SQLite, {}", path.display());
        }
        let Ok(url) = Url::parse(url) else { return "PostgreSQL".to_owned() };
        let host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("localhost");
        let port = url.port().map_or(String::new(), |port| format!(":{port}"));
        format!("PostgreSQL, {host}{port}{}", url.path())
    }

    /// The file of an embedded database.
    pub fn database_file(&self) -> Option<PathBuf> {
        sqlite_path(self.database_url.expose())
    }
}

fn sqlite_path(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    path.split('?').next().map(PathBuf::from)
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// One line each: `key: what is wrong; what would be right`.
    pub mistakes: Vec<String>,
    /// The file that was read beside the environment.
    pub file: Option<PathBuf>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = match self.mistakes.len() {
            1 => "a mistake".to_owned(),
            n => format!("{n} mistakes"),
        };
        match &self.file {
            Some(file) => write!(f, "the configuration (environment and {}) has {number}:", file.display())?,
            None => write!(f, "the configuration (environment) has {number}:")?,
        }
        self.mistakes.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// A key at the top level: its name in the environment and in the file.
#[derive(Clone, Copy)]
struct Key(&'static str, &'static str);

const DATABASE_URL: Key = Key("DATABASE_URL", "database_url");
const LISTEN: Key = Key("TRUEUP_LISTEN", "trueup_listen");
const PUBLIC_URL: Key = Key("TRUEUP_PUBLIC_URL", "trueup_public_url");
const WEBHOOK_SECRET: Key = Key("STRIPE_WEBHOOK_SECRET", "stripe_webhook_secret");
const SECRET_KEY: Key = Key("STRIPE_SECRET_KEY", "stripe_secret_key");
const API_BASE: Key = Key("STRIPE_API_BASE", "stripe_api_base");
const LIVEMODE: Key = Key("STRIPE_LIVEMODE", "stripe_livemode");
const ACCOUNT: Key = Key("STRIPE_ACCOUNT", "stripe_account");
const API_TOKEN: Key = Key("TRUEUP_API_TOKEN", "trueup_api_token");
const ADMIN_TOKEN: Key = Key("TRUEUP_ADMIN_TOKEN", "trueup_admin_token");
const SMTP_URL: Key = Key("SMTP_URL", "smtp_url");
const LOG: Key = Key("TRUEUP_LOG", "trueup_log");
const LOG_FORMAT: Key = Key("TRUEUP_LOG_FORMAT", "trueup_log_format");
const DATA: Key = Key("TRUEUP_DATA", "trueup_data");

/// What may be a list in the file, and has commas in the environment.
const LISTS: [&str; 3] = [WEBHOOK_SECRET.1, edge::TRUSTED_PROXIES.1, edge::CORS_ORIGINS.1];

/// The variables whose names begin with `TRUEUP_`.
const OWN_VARIABLES: [&str; 16] = [
    "TRUEUP_CONFIG",
    LISTEN.0,
    PUBLIC_URL.0,
    API_TOKEN.0,
    ADMIN_TOKEN.0,
    LOG.0,
    LOG_FORMAT.0,
    DATA.0,
    edge::TLS_CERT.0,
    edge::TLS_KEY.0,
    edge::METRICS_LISTEN.0,
    edge::METRICS_TOKEN.0,
    edge::DOCS.0,
    edge::TRUSTED_PROXIES.0,
    edge::CORS_ORIGINS.0,
    // Of the tests.
    "TRUEUP_TEST_POSTGRES",
];

/// What was written, and under which name.
struct Given {
    key: &'static str,
    text: String,
}

struct Source<'e, E> {
    env: &'e E,
    root: Section,
    mistakes: Mistakes,
    warnings: Vec<String>,
}

impl<E: Fn(&str) -> Option<String>> Source<'_, E> {
    fn get(&mut self, Key(variable, name): Key) -> Option<Given> {
        let in_file = self.root.take(name);
        let in_env = (self.env)(variable).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if let Some(text) = in_env {
            return Some(Given { key: variable, text });
        }
        let text = match in_file? {
            Value::String(text) => text.trim().to_owned(),
            Value::Boolean(value) if name == LIVEMODE.1 => value.to_string(),
            Value::Array(items) if LISTS.contains(&name) && items.iter().all(Value::is_str) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
            }
            other => {
                let wrong = format_args!("is of the type {}", other.type_str());
                self.mistakes.add(name, wrong, "write a text in double quotes");
                return None;
            }
        };
        (!text.is_empty()).then_some(Given { key: name, text })
    }

    fn wrong(&mut self, given: &Given, wrong: impl fmt::Display, right: impl fmt::Display) {
        self.mistakes.add(given.key, wrong, right);
    }

    /// A URL of one of these schemes. What is wrong is told without the URL: it may hold a password.
    fn url(&mut self, key: Key, schemes: &[&str], like: &str) -> Option<(Given, Url)> {
        let given = self.get(key)?;
        match Url::parse(&given.text) {
            Ok(url) if schemes.contains(&url.scheme()) && url.host_str().is_some_and(|host| !host.is_empty()) => {
                return Some((given, url));
            }
            Ok(url) if !schemes.contains(&url.scheme()) => {
                let wrong = format!("has the scheme `{}`", url.scheme());
                self.wrong(&given, wrong, format_args!("write a URL like {like}"));
            }
            _ => self.wrong(&given, "is no URL", format_args!("write one like {like}")),
        }
        None
    }
}

impl Config {
    /// Reads the environment of this process, and the file.
    pub fn load() -> Result<Self, ConfigErrors> {
        let env = |name: &str| std::env::var(name).ok();
        let named = env("TRUEUP_CONFIG").filter(|path| !path.trim().is_empty());
        let path = PathBuf::from(named.as_deref().unwrap_or(DEFAULT_FILE));
        let mut config = match std::fs::read_to_string(&path) {
            Ok(text) => Self::from(&env, Some((&path, &text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Self::from(&env, None),
            Err(error) => {
                let mut mistakes = Self::from(&env, None).err().map_or_else(Vec::new, |errors| errors.mistakes);
                let key = if named.is_some() { "TRUEUP_CONFIG" } else { DEFAULT_FILE };
                let mistake = format!(
                    "{key}: the file {} cannot be read ({error}); name a file that is there, or unset the variable",
                    path.display()
                );
                mistakes.insert(0, mistake);
                Err(ConfigErrors { mistakes, file: None })
            }
        }?;
        if let Some(folder) = config.mail.as_ref().and_then(|mail| mail.templates.as_deref())
            && let Err(errors) = Templates::load(Some(folder))
        {
            let right = "mend it, or remove it to have the built-in text";
            let mistakes = errors.iter().map(|error| format!("mail.templates: {error}; {right}")).collect();
            return Err(ConfigErrors { mistakes, file: Some(path) });
        }
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("TRUEUP_")
                && !OWN_VARIABLES.contains(&&*name)
                && let Some(near) = nearest(&name, &OWN_VARIABLES.map(str::to_lowercase).each_ref().map(String::as_str))
            {
                config.warnings.push(format!("{name}: is unknown; did you mean {}?", near.to_uppercase()));
            }
        }
        Ok(config)
    }

    /// Reads an environment and the text of a file. Looks at nothing else.
    pub fn from(env: &impl Fn(&str) -> Option<String>, file: Option<(&Path, &str)>) -> Result<Self, ConfigErrors> {
        let (config, Mistakes(mistakes, _)) = Self::gather(env, file);
        if mistakes.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors { mistakes, file: file.map(|(path, _)| path.to_owned()) })
        }
    }

    /// Reads as far as it can be read: what came of it, what is wrong, and what was asked for.
    fn gather(env: &impl Fn(&str) -> Option<String>, file: Option<(&Path, &str)>) -> (Self, Mistakes) {
        let mut mistakes = Mistakes::default();
        let table = match file {
            Some((path, text)) => text.parse().unwrap_or_else(|error: toml::de::Error| {
                // Not the error's own text: it quotes the line, which may hold a secret.
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let key = format!("{}, line {line}", path.display());
                mistakes.add(key, format_args!("is no TOML ({})", error.message().replace('\n', ", ")), "see toml.io");
                Table::new()
            }),
            None => Table::new(),
        };
        let mut source = Source { env, root: Section::root(table), mistakes, warnings: Vec::new() };
        let config = read(&mut source);
        let Source { root, mut mistakes, warnings, .. } = source;
        root.finish(&mut mistakes);
        (Self { warnings, ..config }, mistakes)
    }
}

/// Reads everything. Where something is wrong, the mistake is noted and the default goes on.
fn read<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> Config {
    let database_url = database_url(source);
    let sqlite = database_url.starts_with("sqlite:");
    let listen = listen(source);
    let public_url = public_url(source);
    let secret_key = secret_key(source);
    let livemode_set = livemode(source);
    let account = source.get(ACCOUNT);
    if let Some(given) = account.as_ref().filter(|given| !given.text.starts_with("acct_")) {
        source.wrong(given, "is no account id", "write the Connect account to serve, acct_…, or unset it");
    }
    let api_token = token(source, API_TOKEN);
    let admin_token = token(source, ADMIN_TOKEN);
    if let (Some(api), Some(admin)) = (&api_token, &admin_token)
        && api.text == admin.text
    {
        let wrong = format!("is the same as {}, so that every host would be an operator", api.key);
        source.wrong(admin, wrong, "write another one");
    }
    let webhook = source.get(WEBHOOK_SECRET);
    let (webhook_secrets, webhook_key) = match &webhook {
        Some(given) => (webhook_secrets(source, given), given.key),
        None => (Vec::new(), WEBHOOK_SECRET.0),
    };
    let livemode = mode(source, secret_key.as_ref(), livemode_set.as_ref(), webhook_secrets.len(), webhook_key);
    // Half a configuration: something of a real one is there, and what it cannot do without is not.
    let others: Vec<&str> = [&secret_key, &livemode_set, &account, &api_token, &admin_token]
        .into_iter()
        .flatten()
        .map(|given| given.key)
        .collect();
    let development = webhook.is_none() && others.is_empty();
    if let (None, Some((last, first))) = (&webhook, others.split_last()) {
        let others = match first {
            [] => format!("{last} is"),
            _ => format!("{} and {last} are", first.join(", ")),
        };
        source.mistakes.add(
            WEBHOOK_SECRET.0,
            format_args!("is not set although {others}, so that no webhook could be verified"),
            "set it to the signing secret of your endpoint at Stripe (whsec_…), or unset everything secret to run with development secrets",
        );
    }
    if webhook.is_some() {
        for (token, key, routes) in [
            (&api_token, API_TOKEN.0, "/api/v1/users is closed to your backend"),
            (&admin_token, ADMIN_TOKEN.0, "/api/v1/admin is closed"),
        ] {
            if token.is_none() && !source.mistakes.0.iter().any(|mistake| mistake.starts_with(key)) {
                source
                    .warnings
                    .push(format!("{key}: is not set: {routes}; set it to {SHORTEST_TOKEN} or more random characters"));
            }
        }
    }
    let api_base = source.url(API_BASE, &["https", "http"], "https://api.stripe.com");
    if let Some((given, url)) = &api_base
        && url.scheme() == "http"
        && livemode == Some(true)
    {
        source.wrong(given, "would send a live key unencrypted", "write an https:// URL");
    }
    if let Some((given, url)) = &api_base
        && url.path().trim_end_matches('/').ends_with("/v1")
    {
        source.wrong(given, "ends with /v1, which every call adds by itself", "leave that out");
    }
    let api_base = api_base.map_or("https://api.stripe.com".to_owned(), |(given, _)| given.text);
    let sentry = sentry::sentry(source, livemode);
    let (mail_server_set, mail_server) = mail_server(source);
    let log = source.get(LOG);
    if let Some(given) = &log
        && let Err(error) = EnvFilter::builder().parse(&given.text)
    {
        source.wrong(given, format_args!("`{}` is no filter ({error})", given.text), "write one like info,sqlx=warn");
    }
    let log_format = source.get(LOG_FORMAT).and_then(|given| match given.text.as_str() {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        other => {
            let wrong = format!("`{other}` is no format");
            source.wrong(&given, wrong, "write text or json");
            None
        }
    });
    let data = source.get(DATA).map_or_else(|| PathBuf::from("data"), |given| PathBuf::from(given.text));
    let Source { root, mistakes, warnings, .. } = source;
    let policy = tables::policy(root, mistakes, mail_server_set);
    let mail = tables::mail(root, mistakes, warnings, mail_server_set, mail_server);
    let retention = tables::retention(root, mistakes);
    let backoff = tables::backoff(root, mistakes);
    let database = database::database(root, mistakes, sqlite);
    let inbox = tables::inbox(root, mistakes, sqlite, database.acquire_timeout);
    let processor = tables::processor(root, mistakes, sqlite, backoff);
    let stripe = tables::stripe(root, mistakes);
    let catalog = tables::catalog(root, mistakes, warnings);
    let jobs = jobs::jobs(root, mistakes);
    let edge = edge::edge(source, development, [api_token.as_ref(), admin_token.as_ref()]);
    let secret = |given: Option<Given>| given.map(|given| Secret(given.text));
    Config {
        database_url: Secret(database_url),
        listen,
        public_url,
        webhook_secrets,
        stripe_secret_key: secret(secret_key),
        stripe_api_base: api_base.trim_end_matches('/').to_owned(),
        stripe,
        intake_rules: IntakeRules { livemode, account: account.map(|given| given.text) },
        api_token: secret(api_token),
        admin_token: secret(admin_token),
        sentry_dsn: sentry.dsn,
        sentry_environment: sentry.environment,
        sentry_release: sentry.release,
        mail,
        retention,
        log: log.map(|given| given.text),
        log_format,
        data,
        catalog,
        policy,
        inbox,
        processor,
        database,
        jobs,
        edge,
        development,
        warnings: Vec::new(),
    }
}

/// Whether a mail server is named, and which, where that can be understood.
fn mail_server<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> (bool, Option<SmtpUrl>) {
    const LIKE: &str = "write one like smtps://user:password@host:465, or smtp://user:password@host:587?tls=required";
    let Some(given) = source.get(SMTP_URL) else { return (false, None) };
    match given.text.parse::<SmtpUrl>() {
        Ok(url) => {
            if url.risks_password() {
                let key = given.key;
                source.warnings.push(format!(
                    "{key}: sends the password without encryption, or may; write smtps://…, or smtp://…?tls=required"
                ));
            }
            (true, Some(url))
        }
        Err(error) => {
            source.wrong(&given, error, LIKE);
            (true, None)
        }
    }
}

fn database_url<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> String {
    const LIKE: &str = "write sqlite://data/trueup.db or postgres://user:password@host:5432/trueup";
    let Some(given) = source.get(DATABASE_URL) else { return "sqlite://data/trueup.db".to_owned() };
    if let Some(path) = sqlite_path(&given.text) {
        if path.as_os_str().is_empty() || path.to_string_lossy().starts_with(':') || given.text.contains("mode=memory")
        {
            let wrong = "a database in memory would be another one for every connection";
            source.wrong(&given, wrong, "name a file, like sqlite://data/trueup.db");
        }
    } else {
        match Url::parse(&given.text) {
            Ok(url) if matches!(url.scheme(), "postgres" | "postgresql") => {}
            Ok(url) => source.wrong(&given, format_args!("the scheme `{}` is not supported", url.scheme()), LIKE),
            Err(_) => source.wrong(&given, "is no URL", LIKE),
        }
    }
    given.text
}

fn listen<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> String {
    match source.get(LISTEN) {
        Some(given) => check_address(source, given),
        None => "127.0.0.1:8000".to_owned(),
    }
}

/// An address and port to listen on.
fn check_address<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>, given: Given) -> String {
    let fits = given.text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_fits = bare
            .map_or(!host.is_empty() && !host.contains([':', '/']), |host| host.parse::<std::net::Ipv6Addr>().is_ok());
        host_fits && port.parse::<u16>().is_ok()
    });
    if !fits {
        let wrong = format!("`{}` is no address and port", given.text);
        source.wrong(&given, wrong, "write one like 127.0.0.1:8000, or 0.0.0.0:8000 for every network interface");
    }
    given.text
}

fn public_url<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> Option<String> {
    let (given, url) = source.url(PUBLIC_URL, &["https", "http"], "https://billing.example.com")?;
    if url.query().is_some() || url.fragment().is_some() {
        source.wrong(&given, "holds more than an address", "write one like https://billing.example.com");
    }
    // With or without the path: both are meant alike.
    let text = given.text.trim_end_matches('/');
    Some(text.strip_suffix(billing::endpoint::PATH).unwrap_or(text).trim_end_matches('/').to_owned())
}

fn secret_key<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> Option<Given> {
    let given = source.get(SECRET_KEY)?;
    let right = "write the secret or restricted API key, sk_… or rk_…";
    if given.text.starts_with("pk_") {
        source.wrong(&given, "is a publishable key", right);
    } else if given.text.starts_with("whsec_") {
        source.wrong(&given, format_args!("is a webhook secret, which belongs in {}", WEBHOOK_SECRET.0), right);
    } else if given.text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        source.wrong(&given, "holds white space", right);
    } else if !given.text.starts_with("sk_") && !given.text.starts_with("rk_") {
        let key = given.key;
        source.warnings.push(format!("{key}: does not look like an API key of Stripe (sk_…, rk_…)"));
    }
    Some(given)
}

fn livemode<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> Option<Given> {
    let given = source.get(LIVEMODE)?;
    if !matches!(given.text.as_str(), "true" | "false") {
        let wrong = format!("`{}` is neither", given.text);
        source.wrong(&given, wrong, "write true (real money) or false (test mode and sandboxes)");
    }
    Some(given)
}

/// The mode we serve, by the setting and by the key, which must agree.
fn mode<E: Fn(&str) -> Option<String>>(
    source: &mut Source<'_, E>,
    key: Option<&Given>,
    set: Option<&Given>,
    secrets: usize,
    secrets_key: &str,
) -> Option<bool> {
    let of_key = key.and_then(|key| match key.text.get(..8) {
        Some("sk_live_" | "rk_live_") => Some(true),
        Some("sk_test_" | "rk_test_") => Some(false),
        _ => None,
    });
    let told: Option<bool> = set.and_then(|set| set.text.parse().ok());
    let name = |live| if live { "live" } else { "test" };
    if let (Some(of_key), Some(told), Some(key), Some(set)) = (of_key, told, key, set)
        && of_key != told
    {
        let wrong = format!("`{told}` contradicts {}, a key of the {} mode", key.key, name(of_key));
        let right = format!("write {of_key}, or unset it, or use a key of the {} mode", name(told));
        source.wrong(set, wrong, right);
    }
    if secrets > 1 && of_key.is_none() && set.is_none() {
        source.mistakes.add(
            secrets_key,
            format_args!("holds {secrets} secrets, and nothing tells whether they are of the live or the test mode"),
            format_args!("set {} or {}, or leave one secret", LIVEMODE.0, SECRET_KEY.0),
        );
    }
    told.or(of_key)
}

fn webhook_secrets<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>, given: &Given) -> Vec<Secret> {
    let mut secrets = Vec::new();
    let mut seen = BTreeSet::new();
    for text in given.text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        if !seen.insert(text) {
            continue;
        }
        let nth = if given.text.contains(',') { format!("secret {}", secrets.len() + 1) } else { "it".to_owned() };
        let right = "write the signing secret that Stripe shows for the endpoint, whsec_…";
        if ["sk_", "rk_", "pk_"].iter().any(|prefix| text.starts_with(prefix)) {
            source.wrong(given, format_args!("{nth} is an API key"), right);
        } else if text.starts_with("we_") {
            source.wrong(given, format_args!("{nth} is the id of an endpoint"), right);
        } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            source.wrong(given, format_args!("{nth} holds white space"), right);
        } else if !text.starts_with("whsec_") {
            let key = given.key;
            source.warnings.push(format!("{key}: {nth} does not look like a signing secret of Stripe (whsec_…)"));
        }
        secrets.push(Secret(text.to_owned()));
    }
    if secrets.is_empty() {
        source.wrong(given, "holds no secret", "write one, or several with commas between them");
    }
    secrets
}

fn token<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>, key: Key) -> Option<Given> {
    let given = source.get(key)?;
    let right =
        format!("write at least {SHORTEST_TOKEN} random letters and digits, for example from `openssl rand -hex 24`");
    let length = given.text.chars().count();
    if length < SHORTEST_TOKEN {
        source.wrong(&given, format_args!("has only {length} characters"), right);
    } else if !given.text.chars().all(|c| c.is_ascii_graphic()) {
        source.wrong(&given, "holds white space, or characters that no HTTP header may hold", right);
    }
    Some(given)
}
