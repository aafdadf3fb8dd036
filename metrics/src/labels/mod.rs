//! The values labels may have.

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vdoc])* $variant),+
        }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it is exported.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

mod state;
mod stripe;

pub use state::{LogLevel, PoolState, QueryError, ScrapePart, SkipReason, SubscriptionStatus, UserStatus};
pub use stripe::{StripeAnswer, StripeEndpoint, StripeLane};

label!(
    /// How a delivery of Stripe was answered, once it was known to be Stripe's.
    WebhookOutcome {
        /// New, and to be applied.
        Recorded = "recorded",
        /// Its event was there.
        Duplicate = "duplicate",
        /// New, and not ours to apply.
        Skipped = "skipped",
        /// The database cannot hold it.
        Refused = "refused",
        /// The database did not take it in time; Stripe sends it again.
        Unavailable = "unavailable",
    }
);

label!(
    /// Why a request to the webhook address was not taken as an event of Stripe.
    RejectReason {
        /// No signature.
        SignatureMissing = "signature-missing",
        /// A header that cannot be read in exactly one way.
        SignatureMalformed = "signature-malformed",
        /// Only other schemes than `v1`.
        SignatureNoV1 = "signature-no-v1",
        /// No secret of ours made it.
        SignatureMismatch = "signature-mismatch",
        /// Too old.
        SignatureExpired = "signature-expired",
        /// Too far ahead.
        SignatureFuture = "signature-future",
        /// Signed, but no event.
        NotAnEvent = "not-an-event",
        /// More bytes than an event may have.
        TooLarge = "too-large",
        /// The body broke off, or came too slowly.
        Incomplete = "incomplete",
        /// None of these.
        Other = "other",
    }
);

impl RejectReason {
    /// The value with this text, else [`RejectReason::Other`].
    pub fn named(text: &str) -> Self {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text).unwrap_or(Self::Other)
    }
}

label!(
    /// How an event came out of an attempt.
    EventOutcome {
        /// Its facts are stored.
        Applied = "applied",
        /// Its facts are stored; a newer snapshot was there.
        Stale = "stale",
        /// It waits for a user.
        Parked = "parked",
        /// Not ours to apply.
        Skipped = "skipped",
        /// It waits for Stripe's API.
        Postponed = "postponed",
        /// It failed and is tried again.
        Retried = "retried",
        /// It failed for the last time.
        Failed = "failed",
    }
);

label!(
    /// Where the events of the inbox stand that are not done.
    InboxStatus {
        /// Due, or waiting for their next attempt.
        Pending = "pending",
        /// Under a lease.
        Processing = "processing",
        /// Given up.
        Failed = "failed",
        /// Waiting for a user.
        Parked = "parked",
    }
);

label!(
    /// How Stripe and what is stored here differ.
    DriftKind {
        /// A subscription that is not stored here.
        Missing = "missing",
        /// A subscription that looks different at Stripe.
        Differs = "differs",
        /// A subscription that is further along its life here than at Stripe.
        Ahead = "ahead",
        /// A subscription of no user of ours.
        UnknownUser = "unknown_user",
        /// A subscription at a price that no plan names.
        UnmappedPrice = "unmapped_price",
        /// A subscription of which Stripe does not know.
        Absent = "absent",
        /// A user whose row is not what the facts say.
        Projection = "projection",
        /// What an adopted database says of a subscription, and nothing at Stripe bears out.
        Unconfirmed = "unconfirmed",
    }
);

label!(
    /// What can be wrong with our webhook endpoint at Stripe.
    EndpointFinding {
        /// There is none.
        Missing = "missing",
        /// Stripe does not deliver to it any more.
        Disabled = "disabled",
        /// It does not listen to what we cannot do without.
        EssentialEvents = "essential_events",
        /// It does not listen to everything we handle.
        SomeEvents = "some_events",
        /// It delivers the events of the other mode.
        Mode = "mode",
        /// Its payloads are older than what we read.
        ApiVersion = "api_version",
        /// It listens to `invoice.created`.
        InvoiceCreated = "invoice_created",
        /// Every event is delivered more than once.
        Duplicate = "duplicate",
    }
);

label!(
    /// How the run of a job ended.
    JobOutcome {
        /// It did all it had to.
        Succeeded = "succeeded",
        /// It could not.
        Failed = "failed",
        /// It could have gone on, and did not, so that nobody is hurt.
        Refused = "refused",
        /// Its process stopped, or lost its lease.
        Interrupted = "interrupted",
        /// It took longer than it may.
        TimedOut = "timed_out",
        /// Something it needs is not set up.
        NotConfigured = "not_configured",
    }
);

label!(
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

label!(
    /// What became of an e-mail.
    EmailOutcome {
        /// The mail server took it.
        Sent = "sent",
        /// Its reason was gone.
        Dropped = "dropped",
        /// Given up.
        Failed = "failed",
        /// To be tried again.
        Retried = "retried",
    }
);

label!(
    /// Methods of HTTP.
    HttpMethod {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// PATCH.
        Patch = "PATCH",
        /// DELETE.
        Delete = "DELETE",
        /// OPTIONS.
        Options = "OPTIONS",
        /// Any other.
        Other = "other",
    }
);

impl HttpMethod {
    /// The value with this text, else [`HttpMethod::Other`].
    pub fn named(text: &str) -> Self {
        Self::ALL.iter().copied().find(|method| method.as_str() == text).unwrap_or(Self::Other)
    }
}

label!(
    /// Classes of HTTP status codes.
    StatusClass {
        /// 200 to 299.
        Success = "2xx",
        /// 300 to 399.
        Redirection = "3xx",
        /// 400 to 499.
        ClientError = "4xx",
        /// 500 and above.
        ServerError = "5xx",
    }
);

impl StatusClass {
    /// The class of a code; the provisional 1xx count as success.
    pub const fn of(code: u16) -> Self {
        match code {
            0..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_label_becomes_other() {
        assert_eq!(RejectReason::named("signature-expired"), RejectReason::SignatureExpired);
        assert_eq!(RejectReason::named("evt_1"), RejectReason::Other);
        assert_eq!(HttpMethod::named("PUT"), HttpMethod::Put);
        assert_eq!(HttpMethod::named("BREW"), HttpMethod::Other);
    }

    #[test]
    fn a_status_code_belongs_to_its_class() {
        let classes = [200, 204, 304, 400, 499, 500, 503].map(|code| StatusClass::of(code).as_str());
        assert_eq!(classes, ["2xx", "2xx", "3xx", "4xx", "4xx", "5xx", "5xx"]);
    }
}

label!(
    /// Why a connection was not taken, or was cut.
    RefusedConnection {
        /// As many as may be open were, and each was being worked for.
        Full = "full",
        /// It had waited the longest for its client and gave way to a new one.
        GaveWay = "gave-way",
        /// The system had no file left for it.
        NoFiles = "no-files",
        /// The bodies that were coming in took as much memory as they may, and this one had come in the longest.
        NoMemory = "no-memory",
        /// It did not come to an understanding about encryption, or not in time.
        Handshake = "handshake",
        /// The head of a request did not come in time.
        SlowHead = "slow-head",
        /// Its client did not take an answer in time.
        SlowReader = "slow-reader",
    }
);

label!(
    /// What a token opens.
    TokenScope {
        /// The host's routes, and the description of the API.
        Api = "api",
        /// The operators' routes.
        Admin = "admin",
        /// The figures.
        Metrics = "metrics",
    }
);
