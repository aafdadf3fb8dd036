//! What the configuration alone tells.

use std::path::Path;

use billing::checkup::Item;

use crate::config::{Config, ConfigErrors};

/// Stripe's signing secrets have 32 characters and more after their prefix; one that is much shorter was cut off while it was copied.
const SHORTEST_SECRET: usize = 24;

/// A configuration that cannot be used: each mistake, as every command tells it.
pub(super) fn mistakes(errors: &ConfigErrors) -> Vec<Item> {
    let one = |mistake: &String| {
        let (what, remedy) = mistake.rsplit_once("; ").unwrap_or((mistake, "correct it"));
        Item::bad("configuration", what, remedy)
    };
    errors.mistakes.iter().map(one).collect()
}

pub(super) fn settings(config: &Config) -> Vec<Item> {
    const AREA: &str = "configuration";
    let mut items: Vec<Item> = config
        .warnings
        .iter()
        .map(|warning| {
            let (what, remedy) = warning.rsplit_once("; ").unwrap_or((warning, "look at it"));
            Item::warn(AREA, what, remedy)
        })
        .collect();
    if items.is_empty() {
        items.push(Item::ok(AREA, "read, and nothing wrong with it"));
    }
    items.push(match &config.public_url {
        Some(url) => Item::ok(AREA, format!("Stripe reaches this server at {url}")),
        None => Item::warn(
            AREA,
            "TRUEUP_PUBLIC_URL is not set, so that our endpoint at Stripe is recognised by its path only",
            "set it to the address at which Stripe reaches this server, like https://billing.example.com",
        ),
    });
    items.extend(secrets(config));
    items.push(if config.mail.is_some() {
        Item::ok("e-mail", "SMTP_URL is set")
    } else {
        Item::ok("e-mail", "SMTP_URL is not set: no e-mails are sent")
    });
    items
}

/// Whether everything secret is there, and looks like what it should be. Nothing of it is shown.
fn secrets(config: &Config) -> Vec<Item> {
    const AREA: &str = "secrets";
    if config.development {
        let remedy = "for anything but trying out, set STRIPE_WEBHOOK_SECRET, TRUEUP_API_TOKEN and TRUEUP_ADMIN_TOKEN";
        return vec![Item::warn(AREA, "development secrets are in use", remedy)];
    }
    let mut items = Vec::new();
    let many = config.webhook_secrets.len();
    for (index, secret) in config.webhook_secrets.iter().enumerate() {
        let nth = if many > 1 {
            format!("secret {} of STRIPE_WEBHOOK_SECRET", index + 1)
        } else {
            "STRIPE_WEBHOOK_SECRET".to_owned()
        };
        let remedy = "copy the signing secret of the endpoint anew from Stripe (Developers, Webhooks, the endpoint, Signing secret)";
        match secret.expose().strip_prefix("whsec_") {
            None => items.push(Item::bad(AREA, format!("{nth} does not begin with whsec_: Stripe signs with no such secret, and every webhook would be refused"), remedy)),
            Some(rest) if rest.len() < SHORTEST_SECRET => {
                items.push(Item::warn(AREA, format!("{nth} is shorter than Stripe's secrets are"), remedy));
            }
            Some(_) => {}
        }
    }
    for (variable, set) in
        [("TRUEUP_API_TOKEN", config.api_token.is_some()), ("TRUEUP_ADMIN_TOKEN", config.admin_token.is_some())]
    {
        // One that is missing is among the warnings of the configuration.
        if set {
            items.push(Item::ok(AREA, format!("{variable} is set")));
        }
    }
    if let Some(key) = &config.stripe_secret_key {
        items.push(if key.expose().starts_with("sk_live_") {
            let remedy = "make a restricted key that may only read (docs/stripe-setup.md lists what), and set that";
            Item::warn(AREA, "STRIPE_SECRET_KEY is a key that may do everything with real money", remedy)
        } else {
            Item::ok(AREA, "STRIPE_SECRET_KEY is set")
        });
    }
    if items.iter().all(|item| item.remedy.is_none()) && many > 0 {
        let rolling = if many > 1 { ": while one is rolled over; then leave the old one out" } else { "" };
        items.push(Item::ok(
            AREA,
            format!("webhooks signed with {many} secrets are taken{rolling}").replace("1 secrets", "one secret"),
        ));
    }
    items.extend(readable_by_others());
    items
}

/// A file of secrets should be its owner's only.
#[cfg(unix)]
fn readable_by_others() -> Option<Item> {
    use std::os::unix::fs::PermissionsExt as _;
    let named = std::env::var("TRUEUP_CONFIG").unwrap_or_else(|_| "trueup.toml".to_owned());
    let text = std::fs::read_to_string(&named).ok()?;
    let mode = std::fs::metadata(Path::new(&named)).ok()?.permissions().mode();
    let secret = ["stripe_secret_key", "stripe_webhook_secret", "trueup_api_token", "trueup_admin_token", "smtp_url"]
        .iter()
        .any(|key| text.lines().any(|line| line.trim_start().starts_with(key)));
    (secret && mode & 0o007 != 0).then(|| {
        let what = format!("{named} holds secrets and can be read by everybody on this machine");
        Item::warn("secrets", what, format!("chmod o-rwx {named}, or give the secrets by environment variables"))
    })
}

#[cfg(not(unix))]
fn readable_by_others() -> Option<Item> {
    None
}
