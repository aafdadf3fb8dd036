//! Whose a customer or a subscription is.

use entity::{enums::LinkEvidence, ids::UserId};

use super::Stamp;

/// A tie between a Stripe object and a user. Of two, the one with stronger evidence stays, then the later, then the greater event id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// What it rests on.
    pub evidence: LinkEvidence,
    /// When it was told, and by which event.
    pub stamp: Stamp,
    /// The user it names, whether we know that user or not.
    pub user: UserId,
}

impl Link {
    /// Keeps the greater of what is there and what is told; true where something changed.
    pub(super) fn merge(kept: &mut Option<Self>, told: Option<Self>) -> bool {
        let changed = told > *kept;
        if changed {
            *kept = told;
        }
        changed
    }
}
