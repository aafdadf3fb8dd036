//! Whether Sentry can be reached with the DSN: an envelope without items is authorised like any other and makes no event.

use std::time::Duration;

use billing::{checkup::Item, stripe::tls};
use reqwest::{Client, StatusCode};
use sentry::types::Dsn;

use crate::config::Config;

const AREA: &str = "sentry";
const PATIENCE: Duration = Duration::from_secs(10);
const REMEDY: &str = "copy the DSN anew from Sentry (Project Settings, Client Keys), or unset SENTRY_DSN";

pub(super) async fn sentry(config: &Config) -> Vec<Item> {
    let Some(dsn) = &config.sentry_dsn else {
        let remedy = "set SENTRY_DSN to be told of errors and panics";
        return vec![Item {
            remedy: Some(remedy.to_owned()),
            ..Item::ok(AREA, "SENTRY_DSN is not set: errors are only logged")
        }];
    };
    let Ok(dsn) = dsn.expose().parse::<Dsn>() else {
        return vec![Item::bad(AREA, "SENTRY_DSN is no DSN of Sentry", REMEDY)];
    };
    let host = dsn.host().to_owned();
    vec![match post(&dsn).await {
        Ok(status) if status.is_success() => Item::ok(AREA, format!("{host} takes errors")),
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Item::bad(AREA, format!("{host} refuses the key of the DSN"), REMEDY)
        }
        Ok(StatusCode::TOO_MANY_REQUESTS) => {
            Item::warn(AREA, format!("{host} takes no more errors for now"), "look at the project's quota in Sentry")
        }
        Ok(status) => Item::bad(AREA, format!("{host} answers {}", status.as_u16()), REMEDY),
        Err(error) => {
            let error = error.without_url();
            let what = if error.is_timeout() { "did not answer in time" } else { "cannot be reached" };
            let remedy = "let this machine reach it, or correct SENTRY_DSN";
            Item::bad(AREA, format!("{host} {what}"), remedy)
        }
    }]
}

async fn post(dsn: &Dsn) -> Result<StatusCode, reqwest::Error> {
    let encrypted = matches!(dsn.scheme(), sentry::types::Scheme::Https);
    let mut builder = Client::builder().timeout(PATIENCE).connect_timeout(PATIENCE / 2);
    if let Ok(tls) = tls::config(encrypted) {
        builder = builder.tls_backend_preconfigured(tls);
    }
    let auth = dsn.to_auth(Some(concat!("trueup-check/", env!("CARGO_PKG_VERSION")))).to_string();
    let request = builder.build()?.post(dsn.envelope_api_url()).header("X-Sentry-Auth", auth);
    let response = request.header("Content-Type", "application/x-sentry-envelope").body("{}\n").send().await?;
    Ok(response.status())
}
