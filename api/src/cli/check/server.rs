//! A running server: whether it is ready, and whether Prometheus can read its figures.

use billing::checkup::Item;
use reqwest::StatusCode;
use serde_json::Value;

use super::told;
use crate::{cli::client::Server, config::Config};

const AREA: &str = "server";

pub(super) async fn server(config: &Config, url: Option<&str>) -> Vec<Item> {
    let server = match Server::at(url, config) {
        Ok(server) => server,
        Err(error) => return vec![Item::bad(AREA, told(&error), "correct --url, or TRUEUP_LISTEN")],
    };
    let readiness = match server.get(None, "/readyz", &[]).await {
        Ok(answer) => answer.body,
        Err(error) => {
            let remedy = "start it, or name the running one (--url); until it runs, neither its metrics nor its parts can be looked at";
            let text = told(&error);
            return vec![Item::warn(AREA, text.split(';').next().unwrap_or_default(), remedy)];
        }
    };
    let mut items = parts(&readiness, server.url());
    items.push(match server.figures(config) {
        Ok(figures) => metrics(&figures, config).await,
        Err(error) => Item::bad("metrics", told(&error), "correct TRUEUP_METRICS_LISTEN"),
    });
    items
}

fn parts(readiness: &Value, url: &str) -> Vec<Item> {
    let Some(ready) = readiness.get("ready").and_then(Value::as_bool) else {
        let what = format!("what answers at {url} is not Trueup");
        return vec![Item::bad(AREA, what, "correct --url, or TRUEUP_LISTEN, or stop what listens there")];
    };
    if ready {
        return vec![Item::ok(AREA, format!("the server at {url} is ready"))];
    }
    let failed = readiness.as_object().into_iter().flatten().filter(|(_, part)| part["state"] == "failed");
    failed
        .map(|(name, part)| {
            let detail = part["detail"].as_str().unwrap_or("no more is told");
            let (what, remedy) = detail.split_once("; ").unwrap_or((detail, "its log tells why"));
            Item::bad(AREA, format!("the server at {url} is not ready: {name}: {what}"), remedy)
        })
        .collect()
}

async fn metrics(server: &Server, config: &Config) -> Item {
    const AREA: &str = "metrics";
    let remedy = "let Prometheus reach /metrics of the server; its log tells what holds it up";
    match server.text(config.edge.metrics_token.as_ref(), "/metrics").await {
        Ok((status, text)) if status.is_success() && text.contains("trueup_build_info") => {
            let ours = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
            let same = text.lines().any(|line| line.starts_with("trueup_build_info") && line.contains(ours));
            if same {
                let series = text.lines().filter(|line| !line.starts_with('#')).count();
                Item::ok(AREA, format!("{}/metrics answers with {series} series", server.url()))
            } else {
                let what = format!("the server at {} is of another version than this command", server.url());
                Item::warn(AREA, what, "run the server's own version of this command, or start the server anew")
            }
        }
        Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)) => {
            let what = format!("{}/metrics refuses the token that is configured here", server.url());
            Item::bad(AREA, what, "give server and command the same TRUEUP_METRICS_TOKEN, and Prometheus with them")
        }
        Ok((status, _)) => {
            let what = format!("{}/metrics answers {} and no figures of ours", server.url(), status.as_u16());
            Item::bad(AREA, what, remedy)
        }
        Err(error) => Item::bad(AREA, told(&error), remedy),
    }
}
