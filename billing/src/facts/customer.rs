//! A customer as facts.

use entity::{
    Time,
    ids::{CustomerId, UserId},
};

use super::{Link, Stamp, earlier};

/// What is known of one customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Stripe's id.
    pub id: CustomerId,
    /// Derived: see `World`.
    pub owner: Option<UserId>,
    /// The strongest tie to a user.
    pub link: Option<Link>,
    /// Address, and the version it came with: how good its source is (0 hearsay, 1 a session, 2 the customer itself), then the stamp.
    pub email: Option<String>,
    /// See `email`.
    pub version: (i16, Stamp),
    /// Set for ever once Stripe deleted the customer: the first second that told so.
    pub deleted_at: Option<Time>,
    /// When Stripe made it.
    pub made_at: Option<Time>,
    /// When our row was made, if it is stored already.
    pub stored_at: Option<Time>,
}

/// What one event tells of a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerTold {
    /// Which.
    pub id: CustomerId,
    /// A tie to a user.
    pub link: Option<Link>,
    /// The address, with the quality of its source (1 or 2); absent where the event says nothing of addresses.
    pub email: Option<(i16, Option<String>)>,
    /// True where the event tells of its deletion.
    pub deleted: bool,
    /// When Stripe made it.
    pub made_at: Option<Time>,
}

impl CustomerTold {
    /// Nothing but that it exists.
    pub fn new(id: CustomerId) -> Self {
        Self { id, link: None, email: None, deleted: false, made_at: None }
    }
}

impl Customer {
    /// A customer of whom nothing is known yet.
    pub fn unseen(id: CustomerId) -> Self {
        let version = (0, Stamp { at: Time::UNIX_EPOCH, event_id: String::new() });
        Self { id, owner: None, link: None, email: None, version, deleted_at: None, made_at: None, stored_at: None }
    }

    /// Takes in what an event tells; true where something changed.
    pub fn merge(&mut self, told: CustomerTold, stamp: &Stamp) -> bool {
        let mut changed = Link::merge(&mut self.link, told.link);
        if let Some((source, email)) = told.email {
            let version = (source, stamp.clone());
            if version > self.version {
                self.version = version;
                self.email = email;
                changed = true;
            }
        }
        if told.deleted && self.deleted_at.is_none_or(|at| stamp.at < at) {
            self.deleted_at = Some(stamp.at);
            changed = true;
        }
        let made_at = earlier(self.made_at, told.made_at);
        changed |= made_at != self.made_at;
        self.made_at = made_at;
        changed
    }

    /// Where it stands among customers with the same e-mail address: the living first, then the one Stripe made first, then by id.
    pub(crate) fn seniority(&self) -> (bool, bool, Option<Time>, &CustomerId) {
        (self.deleted_at.is_some(), self.made_at.is_none(), self.made_at, &self.id)
    }
}
