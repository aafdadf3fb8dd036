//! The API versions whose shapes are known (docs.stripe.com/upgrades; changelog of stripe-node 23.1.0).

use std::{fmt, str::FromStr};

/// A version; they compare by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiVersion {
    /// `2020-08-27`: charges carry their refunds, a subscription its period.
    V2020_08_27,
    /// `2023-10-16`: charges no longer carry their refunds.
    V2023_10_16,
    /// `2025-03-31.basil`: the period is on the items, the subscription in the invoice's `parent`.
    Basil,
    /// `2025-09-30.clover`: flexible billing is the default for new subscriptions.
    Clover,
    /// `2026-10-28.endive`: the newest.
    Endive,
}

impl ApiVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 5] = [Self::V2020_08_27, Self::V2023_10_16, Self::Basil, Self::Clover, Self::Endive];

    /// As Stripe writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2020_08_27 => "2020-08-27",
            Self::V2023_10_16 => "2023-10-16",
            Self::Basil => "2025-03-31.basil",
            Self::Clover => "2025-09-30.clover",
            Self::Endive => "2026-10-28.endive",
        }
    }

    /// The shapes in force in a version that a client names: those of the newest version that is known and not younger. `None` for
    /// what is no version, is older than all, or is younger than the newest.
    pub(crate) fn in_force(named: &str) -> Option<Self> {
        let (date, train) = named.split_once('.').map_or((named, None), |(date, train)| (date, Some(train)));
        chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").ok().filter(|_| date.len() == 10)?;
        if train.is_some_and(|train| train.is_empty() || !train.bytes().all(|byte| byte.is_ascii_lowercase())) {
            return None;
        }
        let newest = Self::Endive.as_str();
        Self::ALL.into_iter().rev().find(|version| &version.as_str()[..10] <= date).filter(|_| date <= &newest[..10])
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is none of the versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no version that is known here; write 2020-08-27, 2023-10-16, 2025-03-31.basil, 2025-09-30.clover or 2026-10-28.endive"
)]
pub struct NoVersion;

impl FromStr for ApiVersion {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or(NoVersion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_between_two_has_the_shapes_of_the_older() {
        assert_eq!(ApiVersion::in_force("2025-08-27.basil"), Some(ApiVersion::Basil));
        assert_eq!(ApiVersion::in_force("2026-10-28.endive"), Some(ApiVersion::Endive));
        assert_eq!(ApiVersion::in_force("2020-08-27"), Some(ApiVersion::V2020_08_27));
        for wrong in ["2010-01-01", "2027-01-01.fig", "latest", "", "2026-10-28.", "2026-13-01"] {
            assert_eq!(ApiVersion::in_force(wrong), None, "{wrong}");
        }
    }
}
