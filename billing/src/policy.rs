//! What the operator decides about access and ownership.

use chrono::TimeDelta;

/// Switches of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long a past-due subscription still entitles; none is without end.
    pub past_due_grace: Option<TimeDelta>,
    /// Whether a customer without any better tie is linked to the user with the same e-mail address.
    pub link_by_email: bool,
    /// Whether e-mails are queued (there is a mail server to send them).
    pub queue_emails: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { past_due_grace: None, link_by_email: true, queue_emails: false }
    }
}
