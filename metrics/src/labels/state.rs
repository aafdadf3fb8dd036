//! How things stand: what is measured, skipped, in the way.

label!(
    /// Why an event is stored and not applied.
    SkipReason {
        /// It is of the mode that this server does not serve.
        OtherMode = "other_mode",
        /// It is of another Connect account.
        ForeignAccount = "foreign_account",
        /// Its type changes nothing here.
        UnhandledType = "unhandled_type",
        /// It is thin, and there is no API key to fetch its object with.
        NoKey = "no_key",
        /// It lacks what it takes to know what it is about.
        Incomplete = "incomplete",
        /// None of these.
        Other = "other",
    }
);

label!(
    /// The status of a user.
    UserStatus {
        /// In its trial.
        Trialing = "trialing",
        /// In good standing, or free.
        Active = "active",
        /// The latest payment failed.
        PastDue = "past_due",
        /// Stripe's tries are used up.
        Unpaid = "unpaid",
        /// Paused.
        Paused = "paused",
        /// The first payment is not done.
        Incomplete = "incomplete",
        /// Ended.
        Canceled = "canceled",
        /// None of these.
        Other = "other",
    }
);

impl UserStatus {
    /// The value with this text, else [`UserStatus::Other`].
    pub fn named(text: &str) -> Self {
        Self::ALL.iter().copied().find(|status| status.as_str() == text).unwrap_or(Self::Other)
    }
}

label!(
    /// The status of a subscription, as Stripe tells it.
    SubscriptionStatus {
        /// The first payment is not done.
        Incomplete = "incomplete",
        /// The first payment never came.
        IncompleteExpired = "incomplete_expired",
        /// In its trial.
        Trialing = "trialing",
        /// In good standing.
        Active = "active",
        /// The latest payment failed.
        PastDue = "past_due",
        /// Ended.
        Canceled = "canceled",
        /// Stripe's tries are used up.
        Unpaid = "unpaid",
        /// Paused.
        Paused = "paused",
        /// None of these.
        Other = "other",
    }
);

impl SubscriptionStatus {
    /// The value with this text, else [`SubscriptionStatus::Other`].
    pub fn named(text: &str) -> Self {
        Self::ALL.iter().copied().find(|status| status.as_str() == text).unwrap_or(Self::Other)
    }
}

label!(
    /// What a connection of the pool does.
    PoolState {
        /// Nothing.
        Idle = "idle",
        /// Somebody uses it.
        InUse = "in_use",
    }
);

label!(
    /// What was in the way of a statement.
    QueryError {
        /// No connection of the pool became free in time.
        PoolTimeout = "pool_timeout",
        /// No connection, or one that broke.
        Connection = "connection",
        /// It took longer than it may, or waited too long for a lock.
        Timeout = "timeout",
        /// Another transaction: a deadlock, a lost race for a lock, a snapshot too old.
        Conflict = "conflict",
        /// No disk, memory, connections or locks left.
        Resources = "resources",
        /// A constraint.
        Constraint = "constraint",
        /// Something else in the data.
        Data = "data",
        /// None of these.
        Other = "other",
    }
);

label!(
    /// The parts of a scrape that may be missing.
    ScrapePart {
        /// Events and e-mails that wait.
        Inbox = "inbox",
        /// Users and subscriptions.
        Users = "users",
        /// Windows that are over.
        Usage = "usage",
        /// What the database knows of jobs.
        Jobs = "jobs",
        /// The pool of connections.
        Pool = "pool",
    }
);

label!(
    /// Levels of log lines.
    LogLevel {
        /// ERROR.
        Error = "error",
        /// WARN.
        Warn = "warn",
        /// INFO.
        Info = "info",
        /// DEBUG.
        Debug = "debug",
        /// TRACE.
        Trace = "trace",
    }
);
