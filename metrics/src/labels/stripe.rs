//! Calls of Stripe's API.

label!(
    /// Kinds of calls of Stripe's API.
    StripeEndpoint {
        /// One subscription.
        Subscription = "subscription",
        /// One customer.
        Customer = "customer",
        /// One checkout session.
        CheckoutSession = "checkout_session",
        /// One invoice.
        Invoice = "invoice",
        /// One event.
        Event = "event",
        /// One price.
        Price = "price",
        /// One product.
        Product = "product",
        /// One charge.
        Charge = "charge",
        /// One dispute.
        Dispute = "dispute",
        /// The account of the key.
        Account = "account",
        /// A page of subscriptions.
        Subscriptions = "subscriptions",
        /// A page of a subscription's items.
        SubscriptionItems = "subscription_items",
        /// A page of invoices.
        Invoices = "invoices",
        /// The checkouts that sold a subscription.
        CheckoutSessions = "checkout_sessions",
        /// A page of events.
        Events = "events",
        /// A page of webhook endpoints.
        WebhookEndpoints = "webhook_endpoints",
    }
);

label!(
    /// What came of one try of a call of Stripe's API: a class of status codes, or why there is none.
    StripeAnswer {
        /// 200 to 299.
        Success = "2xx",
        /// 300 to 399.
        Redirection = "3xx",
        /// The key was refused.
        KeyRefused = "401",
        /// A limit.
        Limited = "429",
        /// Any other from 400 to 499.
        ClientError = "4xx",
        /// 500 and above.
        ServerError = "5xx",
        /// Not within its time.
        TimedOut = "timeout",
        /// No connection, or one that broke.
        Broken = "broken",
    }
);

label!(
    /// Who waits for Stripe.
    StripeLane {
        /// An event, or a person.
        Live = "live",
        /// A job that has time.
        Background = "background",
    }
);
