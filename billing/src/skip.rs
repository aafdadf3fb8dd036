//! Why an event is stored and not applied.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// The kind of reason, for figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// It is of the mode that this server does not serve.
    OtherMode,
    /// It is of another Connect account.
    ForeignAccount,
    /// Its type, or the kind of its object, changes nothing here.
    UnhandledType,
    /// It is thin, and there is no API key to fetch its object with.
    NoKey,
    /// It lacks what it takes to know what it is about.
    Incomplete,
}

/// A reason, with the words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// Of what kind.
    pub reason: SkipReason,
    text: Cow<'static, str>,
}

impl Skip {
    /// A reason in these words.
    pub fn new(reason: SkipReason, text: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, text: text.into() }
    }

    /// It lacks what it takes.
    pub(crate) const fn incomplete(text: &'static str) -> Self {
        Self { reason: SkipReason::Incomplete, text: Cow::Borrowed(text) }
    }

    /// It changes nothing here.
    pub(crate) const fn unhandled(text: &'static str) -> Self {
        Self { reason: SkipReason::UnhandledType, text: Cow::Borrowed(text) }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
