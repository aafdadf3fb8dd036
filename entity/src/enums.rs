//! Closed sets, stored as text, and the one open set: the status of a subscription, where Stripe may add values at any time.

use std::{convert::Infallible, fmt, str::FromStr};

use sea_orm::{DeriveActiveEnum, DeriveValueType, EnumIter};
use serde::{Deserialize, Serialize};

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, EnumIter, DeriveActiveEnum,
        )]
        #[sea_orm(rs_type = "String", db_type = "Text")]
        pub enum $name {
            $($(#[$vdoc])* #[sea_orm(string_value = $text)] #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text that is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownValue;
            fn from_str(text: &str) -> Result<Self, UnknownValue> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(UnknownValue { given: text.to_owned(), allowed: &[$($text),+] }),
                }
            }
        }
    };
}

/// A text that is none of the values of a closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not one of {}", allowed.join(", "))]
pub struct UnknownValue {
    /// What was given.
    pub given: String,
    /// What would have been right.
    pub allowed: &'static [&'static str],
}

text_enum!(
    /// Where an event of the inbox stands.
    ProcessingStatus {
        /// Waits for its (next) attempt; also every parked event.
        Pending = "pending",
        /// Claimed by a processor under a lease.
        Processing = "processing",
        /// Applied.
        Completed = "completed",
        /// Given up; waits for a person.
        Failed = "failed",
        /// Stored, and not ours to apply.
        Skipped = "skipped",
    }
);

text_enum!(
    /// How an event came into the inbox.
    EventSource {
        /// Delivered by Stripe.
        Webhook = "webhook",
        /// Fetched from Stripe's Events API, since its delivery never arrived.
        Recovery = "recovery",
        /// Sent again on an operator's word.
        Replay = "replay",
    }
);

text_enum!(
    /// What caused an entry of the timeline.
    ChangeSource {
        /// A webhook.
        Webhook = "webhook",
        /// An event recovered from Stripe's Events API.
        Recovery = "recovery",
        /// A repair by reconciliation.
        Reconcile = "reconcile",
        /// A date that passed, or a new catalogue.
        Schedule = "schedule",
        /// An operator.
        Operator = "operator",
        /// The host application.
        Api = "api",
    }
);

text_enum!(
    /// How strong the tie between a Stripe object and a user is; a stronger one is never replaced by a weaker.
    LinkEvidence {
        /// The e-mail address is the same.
        Email = "email",
        /// The user carries the customer's id.
        Customer = "customer",
        /// An invoice's copy of its subscription's metadata names the user: true when the invoice was made, perhaps not now.
        Invoice = "invoice",
        /// The object's own metadata, or its checkout session's reference, names the user.
        Metadata = "metadata",
    }
);

text_enum!(
    /// Status of an invoice, in the order in which it can only move forward.
    InvoiceStatus {
        /// Not final yet.
        Draft = "draft",
        /// Waits for payment.
        Open = "open",
        /// Given up; may still be paid.
        Uncollectible = "uncollectible",
        /// Cancelled.
        Void = "void",
        /// Paid.
        Paid = "paid",
    }
);

text_enum!(
    /// What an e-mail is about.
    EmailKind {
        /// A payment failed.
        PaymentFailed = "payment_failed",
        /// A payment needs the customer's confirmation.
        PaymentActionRequired = "payment_action_required",
        /// A trial ends soon.
        TrialEnding = "trial_ending",
    }
);

text_enum!(
    /// Where an e-mail stands.
    EmailStatus {
        /// Waits to be sent.
        Pending = "pending",
        /// Handed to the mail server.
        Sent = "sent",
        /// Its reason was gone before it was sent.
        Dropped = "dropped",
        /// Given up.
        Failed = "failed",
    }
);

text_enum!(
    /// How the run of a job ended.
    RunOutcome {
        /// It has not ended yet; or its process died, and nobody has looked since.
        Running = "running",
        /// It did all it had to.
        Succeeded = "succeeded",
        /// It could not.
        Failed = "failed",
        /// It could have gone on, and did not, so that nobody is hurt.
        Refused = "refused",
        /// Its process stopped or died, or lost its lease.
        Interrupted = "interrupted",
        /// It took longer than it may.
        TimedOut = "timed_out",
        /// Something it needs is not set up.
        NotConfigured = "not_configured",
    }
);

text_enum!(
    /// What a run of a job was started by.
    RunTrigger {
        /// The clock.
        Scheduled = "scheduled",
        /// A slot that passed while nobody could run it, or whose run was cut off.
        CatchUp = "catch_up",
        /// A person.
        Manual = "manual",
    }
);

text_enum!(
    /// What a reconciliation does with what it finds.
    ReconcileMode {
        /// Tells it, and changes nothing.
        DryRun = "dry_run",
        /// Repairs it.
        Apply = "apply",
    }
);

text_enum!(
    /// How a reconciliation stands, or came out.
    ReconcileOutcome {
        /// Under way.
        Running = "running",
        /// It saw everything, and did what it was to do.
        Succeeded = "succeeded",
        /// It could not see or do everything.
        Failed = "failed",
        /// It could have gone on, and did not, so that nobody is hurt.
        Refused = "refused",
        /// It was stopped, or its process died.
        Interrupted = "interrupted",
    }
);

text_enum!(
    /// Who asked for a reconciliation.
    Requester {
        /// The clock.
        Schedule = "schedule",
        /// A person at the command line.
        Cli = "cli",
        /// An operator over HTTP.
        Api = "api",
    }
);

text_enum!(
    /// How Stripe and what is stored here differ.
    DriftKind {
        /// A subscription that Stripe has and that is not stored here.
        Missing = "missing",
        /// A subscription that looks different at Stripe.
        Differs = "differs",
        /// A subscription that is further along its life here than Stripe says it is: by Stripe's own rules that cannot be.
        Ahead = "ahead",
        /// A subscription that is not over, and belongs to no user of ours.
        UnknownUser = "unknown_user",
        /// A subscription that should entitle, at a price that no plan names.
        UnmappedPrice = "unmapped_price",
        /// A subscription that is not over here, and of which Stripe does not know.
        Absent = "absent",
        /// A user whose stored tier, status or access is not what the stored facts say.
        Projection = "projection",
        /// What the host had of a subscription before its database was adopted, and nothing at Stripe bears out.
        Unconfirmed = "unconfirmed",
    }
);

/// Status of a subscription as Stripe names it. Open: an unknown value is kept as it came and gives no access
/// (docs.stripe.com/billing/subscriptions/overview; Stripe adds enum values without notice).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, DeriveValueType)]
#[sea_orm(value_type = "String", column_type = "Text")]
#[serde(into = "String", from = "String")]
pub enum SubscriptionStatus {
    /// The first payment is not done; Stripe waits 23 hours for it.
    Incomplete,
    /// The first payment never came. Terminal.
    IncompleteExpired,
    /// In its trial.
    Trialing,
    /// In good standing.
    Active,
    /// The latest payment failed; Stripe tries again.
    PastDue,
    /// Ended. Terminal.
    Canceled,
    /// Stripe's tries are used up.
    Unpaid,
    /// Paused.
    Paused,
    /// A value this version does not know.
    Other(String),
}

impl SubscriptionStatus {
    /// The text that Stripe uses.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Trialing => "trialing",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Canceled => "canceled",
            Self::Unpaid => "unpaid",
            Self::Paused => "paused",
            Self::Other(text) => text,
        }
    }

    /// True for the states a subscription never leaves.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }
}

impl From<String> for SubscriptionStatus {
    fn from(text: String) -> Self {
        match text.as_str() {
            "incomplete" => Self::Incomplete,
            "incomplete_expired" => Self::IncompleteExpired,
            "trialing" => Self::Trialing,
            "active" => Self::Active,
            "past_due" => Self::PastDue,
            "canceled" => Self::Canceled,
            "unpaid" => Self::Unpaid,
            "paused" => Self::Paused,
            _ => Self::Other(text),
        }
    }
}

impl From<SubscriptionStatus> for String {
    fn from(status: SubscriptionStatus) -> Self {
        status.as_str().to_owned()
    }
}

impl FromStr for SubscriptionStatus {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.to_owned().into())
    }
}

impl fmt::Display for SubscriptionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_reads_back_from_the_text_it_is_stored_as() {
        for status in ProcessingStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
        let unknown = SubscriptionStatus::from("on_the_moon".to_owned());
        assert_eq!(unknown, SubscriptionStatus::Other("on_the_moon".into()));
        assert_eq!(String::from(unknown), "on_the_moon");
    }

    #[test]
    fn an_unknown_value_is_named_beside_what_would_be_right() {
        let error = "done".parse::<ProcessingStatus>().expect_err("`done` is no status");
        assert_eq!(error.to_string(), "`done` is not one of pending, processing, completed, failed, skipped");
    }

    #[test]
    fn the_outcomes_of_runs_read_back_too() {
        for outcome in RunOutcome::ALL {
            assert_eq!(outcome.as_str().parse(), Ok(*outcome));
        }
    }

    #[test]
    fn an_invoice_moves_forward_in_the_declared_order() {
        assert!(InvoiceStatus::ALL.is_sorted());
        assert!(InvoiceStatus::Paid > InvoiceStatus::Void);
    }
}
