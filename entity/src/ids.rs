//! Ids as types: a customer id cannot be passed where a subscription id is meant.
//!
//! Stripe promises at most 255 characters and says that prefixes are not part of the contract
//! (docs.stripe.com/upgrades), so none is demanded here.

use std::{fmt, str::FromStr};

use sea_orm::{DbErr, DeriveValueType, TryFromU64};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest id Stripe may send, in characters (docs.stripe.com/upgrades).
pub const MAX_ID_LENGTH: usize = 255;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text has no characters.
    #[error("an id must not be empty")]
    Empty,
    /// The text is longer than [`MAX_ID_LENGTH`].
    #[error("an id must have at most 255 characters")]
    TooLong,
    /// The text holds white space or control characters.
    #[error("an id must not contain white space or control characters")]
    BadCharacter,
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        Err(IdError::Empty)
    } else if text.chars().nth(MAX_ID_LENGTH).is_some() {
        Err(IdError::TooLong)
    } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Err(IdError::BadCharacter)
    } else {
        Ok(())
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, DeriveValueType)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes a text as an id: 1 to 255 characters without white space or control characters.
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check(&text)?;
                Ok(Self(text))
            }

            /// The id as Stripe writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        // SeaORM asks it of every primary key; a text id is never made by the database.
        impl TryFromU64 for $name {
            fn try_from_u64(_: u64) -> Result<Self, DbErr> {
                Err(DbErr::ConvertFromU64(stringify!($name)))
            }
        }
    };
}

text_id!(
    /// A Stripe event, `evt_…`.
    EventId
);
text_id!(
    /// A Stripe customer, `cus_…`.
    CustomerId
);
text_id!(
    /// A Stripe subscription, `sub_…`.
    SubscriptionId
);
text_id!(
    /// A Stripe invoice, `in_…`.
    InvoiceId
);

/// A user of the host application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, DeriveValueType)]
#[serde(transparent)]
pub struct UserId(pub Uuid);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for UserId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl TryFromU64 for UserId {
    fn try_from_u64(_: u64) -> Result<Self, DbErr> {
        Err(DbErr::ConvertFromU64("UserId"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_to_255_characters_without_white_space() {
        assert_eq!(EventId::parse("evt_1").map(|id| id.to_string()), Ok("evt_1".into()));
        assert_eq!(EventId::parse(""), Err(IdError::Empty));
        assert!(EventId::parse("é".repeat(255)).is_ok());
        assert_eq!(EventId::parse("x".repeat(256)), Err(IdError::TooLong));
        assert_eq!(EventId::parse("evt 1"), Err(IdError::BadCharacter));
        assert_eq!(EventId::parse("evt\u{0}1"), Err(IdError::BadCharacter));
    }
}
