//! Whether Sentry can be reached with the DSN: an envelope without items is authorised like any other and makes no event.

use std::time::Duration;

use billing::{checkup::Item, stripe::tls};
use reqwest::{Client, StatusCode, Url};

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
    let Some(target) = target(dsn.expose()) else {
        return vec![Item::bad(AREA, "SENTRY_DSN is no DSN: it lacks its key or its project", REMEDY)];
    };
    vec![match post(&target).await {
        Ok(status) if status.is_success() => Item::ok(AREA, format!("{} takes errors", target.host)),
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Item::bad(AREA, format!("{} refuses the key of the DSN", target.host), REMEDY)
        }
        Ok(StatusCode::TOO_MANY_REQUESTS) => Item::warn(
            AREA,
            format!("{} takes no more errors for now", target.host),
            "look at the project's quota in Sentry",
        ),
        Ok(status) => Item::bad(AREA, format!("{} answers {}", target.host, status.as_u16()), REMEDY),
        Err(error) => {
            let error = error.without_url();
            let what = if error.is_timeout() { "did not answer in time" } else { "cannot be reached" };
            let remedy = "let this machine reach it, or correct SENTRY_DSN";
            Item::bad(AREA, format!("{} {what}", target.host), remedy)
        }
    }]
}

/// Where errors go, and as whom.
struct Target {
    url: Url,
    host: String,
    key: String,
}

/// `https://key@host/path/project` names `https://host/path/api/project/envelope/` (develop.sentry.dev/sdk/overview).
fn target(dsn: &str) -> Option<Target> {
    let dsn = Url::parse(dsn).ok()?;
    let (key, host) = (dsn.username().to_owned(), dsn.host_str()?.to_owned());
    let (path, project) = dsn.path().trim_end_matches('/').rsplit_once('/')?;
    if key.is_empty() || project.is_empty() {
        return None;
    }
    let mut url = dsn.clone();
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    url.set_query(None);
    url.set_path(&format!("{path}/api/{project}/envelope/"));
    Some(Target { url, host, key })
}

async fn post(target: &Target) -> Result<StatusCode, reqwest::Error> {
    let encrypted = target.url.scheme() == "https";
    let mut builder = Client::builder().timeout(PATIENCE).connect_timeout(PATIENCE / 2);
    if let Ok(tls) = tls::config(encrypted) {
        builder = builder.tls_backend_preconfigured(tls);
    }
    let auth = format!(
        "Sentry sentry_version=7, sentry_client=trueup-check/{}, sentry_key={}",
        env!("CARGO_PKG_VERSION"),
        target.key
    );
    let request = builder.build()?.post(target.url.clone()).header("X-Sentry-Auth", auth);
    let response = request.header("Content-Type", "application/x-sentry-envelope").body("{}\n").send().await?;
    Ok(response.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dsn_names_the_address_of_envelopes_without_its_key() {
        let of = |dsn: &str| target(dsn).map(|target| (target.url.to_string(), target.key));
        assert_eq!(
            of("https://abc@o1.ingest.sentry.io/42"),
            Some(("https://o1.ingest.sentry.io/api/42/envelope/".to_owned(), "abc".to_owned()))
        );
        assert_eq!(
            of("http://abc:old@sentry.example:9000/under/7/"),
            Some(("http://sentry.example:9000/under/api/7/envelope/".to_owned(), "abc".to_owned()))
        );
        for wrong in ["https://sentry.io/42", "https://abc@sentry.io/", "https://abc@sentry.io", "no url"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
