//! The server's outer edge: encryption, who is let in to what, proxies, browsers, `[http]`.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use reqwest::Url;

use super::{
    Given, Key, Secret, Source, check_address,
    read::{Mistakes, Section},
    token,
};
use crate::server::{Limits, tls::TlsFiles};

pub(super) const TLS_CERT: Key = Key("TRUEUP_TLS_CERT", "trueup_tls_cert");
pub(super) const TLS_KEY: Key = Key("TRUEUP_TLS_KEY", "trueup_tls_key");
pub(super) const METRICS_LISTEN: Key = Key("TRUEUP_METRICS_LISTEN", "trueup_metrics_listen");
pub(super) const METRICS_TOKEN: Key = Key("TRUEUP_METRICS_TOKEN", "trueup_metrics_token");
pub(super) const DOCS: Key = Key("TRUEUP_DOCS", "trueup_docs");
pub(super) const TRUSTED_PROXIES: Key = Key("TRUEUP_TRUSTED_PROXIES", "trueup_trusted_proxies");
pub(super) const CORS_ORIGINS: Key = Key("TRUEUP_CORS_ORIGINS", "trueup_cors_origins");

/// Who may read the description of the API, `/docs` and `/openapi.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Docs {
    /// Everybody.
    Open,
    /// Whoever has the API token or the admin token.
    Token,
    /// Nobody.
    Off,
}

/// The outer edge, checked.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Certificate and key; without them nothing is encrypted here.
    pub tls: Option<TlsFiles>,
    /// Another `host:port` for the figures; they are nowhere else then.
    pub metrics_listen: Option<String>,
    /// Opens the figures; without one they are open.
    pub metrics_token: Option<Secret>,
    /// Who may read the description of the API.
    pub docs: Docs,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Which pages of other origins may call from a browser.
    pub cors_origins: Vec<String>,
    /// Bounds of connections; how many, where it is set.
    pub limits: Limits,
    /// Whether the number of connections is set, and not by the limit of open files.
    pub connections_set: bool,
}

/// Reads it all. `development`: no secrets are configured, so nothing here is worth more than the first look at it.
pub(super) fn edge<E: Fn(&str) -> Option<String>>(
    source: &mut Source<'_, E>,
    development: bool,
    others: [Option<&Given>; 2],
) -> Edge {
    let tls = tls(source);
    let metrics_listen = source.get(METRICS_LISTEN).map(|given| check_address(source, given));
    let metrics_token = token(source, METRICS_TOKEN);
    if let Some(given) = &metrics_token {
        for other in others.into_iter().flatten().filter(|other| other.text == given.text) {
            let wrong = format!("is the same as {}, so that whoever scrapes could do as much", other.key);
            source.wrong(given, wrong, "write another one");
        }
    }
    let docs = docs(source).unwrap_or(if development { Docs::Open } else { Docs::Token });
    let trusted_proxies = trusted_proxies(source);
    let cors_origins = cors_origins(source);
    let (limits, connections_set) = limits(&mut source.root, &mut source.mistakes);
    Edge {
        tls,
        metrics_listen,
        metrics_token: metrics_token.map(|given| Secret::new(given.text)),
        docs,
        trusted_proxies,
        cors_origins,
        limits,
        connections_set,
    }
}

fn tls<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> Option<TlsFiles> {
    match (source.get(TLS_CERT), source.get(TLS_KEY)) {
        (Some(certificate), Some(key)) => {
            Some(TlsFiles { certificate: PathBuf::from(certificate.text), key: PathBuf::from(key.text) })
        }
        (Some(given), None) => {
            let right = format!("set {} to the file of its private key, or unset both", TLS_KEY.0);
            source.wrong(&given, "names a certificate without its key", right);
            None
        }
        (None, Some(given)) => {
            let right = format!("set {} to the file of its certificate, or unset both", TLS_CERT.0);
            source.wrong(&given, "names a key without its certificate", right);
            None
        }
        (None, None) => None,
    }
}

fn docs<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> Option<Docs> {
    let given = source.get(DOCS)?;
    let docs = match given.text.as_str() {
        "open" => Some(Docs::Open),
        "token" => Some(Docs::Token),
        "off" => Some(Docs::Off),
        _ => None,
    };
    if docs.is_none() {
        let wrong = format!("`{}` is none of the choices", given.text);
        let right = "write token (the API or the admin token opens /docs and /openapi.json), open, or off";
        source.wrong(&given, wrong, right);
    }
    docs
}

/// The parts of a list with commas.
fn parts(given: &Given) -> impl Iterator<Item = &str> {
    given.text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn trusted_proxies<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> Vec<IpNet> {
    let Some(given) = source.get(TRUSTED_PROXIES) else { return Vec::new() };
    let mut proxies = Vec::new();
    for part in parts(&given) {
        let parsed = part.parse::<IpNet>().or_else(|_| part.parse::<std::net::IpAddr>().map(IpNet::from));
        match parsed {
            Ok(network) if network.prefix_len() == 0 => {
                let wrong = format!("`{part}` is every address, so that anybody could name the address they come from");
                source.wrong(&given, wrong, "write the proxies' own addresses or networks");
            }
            Ok(network) => proxies.push(network.trunc()),
            Err(_) => {
                let wrong = format!("`{part}` is no address and no network");
                source.wrong(&given, wrong, "write the proxies' addresses or networks, like 10.0.0.0/8,192.0.2.7");
            }
        }
    }
    proxies
}

fn cors_origins<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>) -> Vec<String> {
    let Some(given) = source.get(CORS_ORIGINS) else { return Vec::new() };
    let mut origins = Vec::new();
    for part in parts(&given) {
        let origin = Url::parse(part)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.path() == "/")
            .map(|url| url.origin().ascii_serialization());
        // As browsers write it, or with one stroke at its end.
        if let Some(origin) = origin.filter(|origin| part.trim_end_matches('/').eq_ignore_ascii_case(origin)) {
            origins.push(origin);
        } else {
            let wrong = format!("`{part}` is no origin");
            source.wrong(&given, wrong, "write scheme, host and port only, like https://app.example.com");
        }
    }
    origins
}

fn limits(root: &mut Section, mistakes: &mut Mistakes) -> (Limits, bool) {
    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
    let mut section = root.section(mistakes, "http");
    let default = Limits::default();
    let connections = section.integer(mistakes, "connections", &(16..=1_000_000));
    let head = section.duration(mistakes, "head_timeout", &(seconds(1)..=seconds(120)));
    let answer = section.duration(mistakes, "answer_timeout", &(seconds(1)..=seconds(600)));
    let idle = section.duration(mistakes, "idle_timeout", &(seconds(1)..=seconds(3600)));
    section.finish(mistakes);
    let limits = Limits {
        connections: connections.and_then(|number| usize::try_from(number).ok()).unwrap_or(default.connections),
        head: head.unwrap_or(default.head),
        answer: answer.unwrap_or(default.answer),
        idle: idle.unwrap_or(default.idle),
        bodies: default.bodies,
    };
    (limits, connections.is_some())
}
