//! Where errors are reported, and as whose.

use sentry::types::Dsn;

use super::{Key, Secret, Source};

pub(super) const DSN: Key = Key("SENTRY_DSN", "sentry_dsn");
const ENVIRONMENT: Key = Key("SENTRY_ENVIRONMENT", "sentry_environment");
const RELEASE: Key = Key("SENTRY_RELEASE", "sentry_release");

/// Longest name that Sentry takes for an environment (docs.sentry.io/concepts/key-terms/environments).
const LONGEST_ENVIRONMENT: usize = 64;
/// Longest name that Sentry takes for a release (docs.sentry.io/product/releases).
const LONGEST_RELEASE: usize = 200;

/// What is set about Sentry.
pub(super) struct Sentry {
    pub(super) dsn: Option<Secret>,
    pub(super) environment: String,
    pub(super) release: String,
}

/// Reads it. Without a word about the environment, Stripe's mode names it.
pub(super) fn sentry<E: Fn(&str) -> Option<String>>(source: &mut Source<'_, E>, livemode: Option<bool>) -> Sentry {
    let given = source.url(DSN, &["https", "http"], "https://key@host/project");
    let dsn = given.and_then(|(given, _)| {
        if given.text.parse::<Dsn>().is_ok() {
            return Some(Secret(given.text));
        }
        // Not in the words of the error: they may quote the key.
        source.wrong(
            &given,
            "is no DSN of Sentry",
            "copy it from the project's settings, like https://key@host/project",
        );
        None
    });
    let environment = name(source, ENVIRONMENT, LONGEST_ENVIRONMENT, |c| c.is_whitespace() || c == '/');
    let release = name(source, RELEASE, LONGEST_RELEASE, |c| c.is_whitespace() && c != ' ' || matches!(c, '/' | '\\'));
    let mode = match livemode {
        Some(true) => "production",
        Some(false) => "test",
        None => "development",
    };
    Sentry {
        dsn,
        environment: environment.unwrap_or_else(|| mode.to_owned()),
        release: release.unwrap_or_else(|| concat!("trueup@", env!("CARGO_PKG_VERSION")).to_owned()),
    }
}

fn name<E: Fn(&str) -> Option<String>>(
    source: &mut Source<'_, E>,
    key: Key,
    longest: usize,
    forbidden: fn(char) -> bool,
) -> Option<String> {
    let given = source.get(key)?;
    if given.text.chars().count() > longest || given.text.contains(forbidden) || given.text == "None" {
        let right = format!(
            "write a name of at most {longest} characters without line breaks and slashes, and other than None"
        );
        source.wrong(&given, "is no name that Sentry takes", right);
        return None;
    }
    Some(given.text)
}
