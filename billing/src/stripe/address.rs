//! Where things are at Stripe: paths and queries.

use reqwest::Url;

use super::{Collection, Resource};

/// A kind of call; a closed set, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `GET /v1/subscriptions/:id`
    Subscription,
    /// `GET /v1/customers/:id`
    Customer,
    /// `GET /v1/checkout/sessions/:id`
    CheckoutSession,
    /// `GET /v1/invoices/:id`
    Invoice,
    /// `GET /v1/events/:id`
    Event,
    /// `GET /v1/prices/:id`, and the list
    Price,
    /// `GET /v1/products/:id`
    Product,
    /// `GET /v1/charges/:id`
    Charge,
    /// `GET /v1/disputes/:id`
    Dispute,
    /// `GET /v1/account`
    Account,
    /// `GET /v1/subscriptions`
    Subscriptions,
    /// `GET /v1/subscription_items`
    SubscriptionItems,
    /// `GET /v1/invoices`
    Invoices,
    /// `GET /v1/checkout/sessions`
    CheckoutSessions,
    /// `GET /v1/events`
    Events,
    /// `GET /v1/webhook_endpoints`
    WebhookEndpoints,
}

impl Endpoint {
    /// As people and metrics read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subscription => "subscription",
            Self::Customer => "customer",
            Self::CheckoutSession => "checkout_session",
            Self::Invoice => "invoice",
            Self::Event => "event",
            Self::Price => "price",
            Self::Product => "product",
            Self::Charge => "charge",
            Self::Dispute => "dispute",
            Self::Account => "account",
            Self::Subscriptions => "subscriptions",
            Self::SubscriptionItems => "subscription_items",
            Self::Invoices => "invoices",
            Self::CheckoutSessions => "checkout_sessions",
            Self::Events => "events",
            Self::WebhookEndpoints => "webhook_endpoints",
        }
    }

    /// What a restricted key must be allowed to read for it, in the words of Stripe's dashboard.
    pub(super) fn permission(self) -> &'static str {
        match self {
            Self::Subscription | Self::Subscriptions | Self::SubscriptionItems => "subscriptions",
            Self::Customer => "customers",
            Self::CheckoutSession | Self::CheckoutSessions => "checkout sessions",
            Self::Invoice | Self::Invoices => "invoices",
            Self::Event | Self::Events => "events",
            Self::Price => "prices",
            Self::Product => "products",
            Self::Charge => "charges",
            Self::Dispute => "disputes",
            Self::Account => "the account",
            Self::WebhookEndpoints => "webhook endpoints",
        }
    }
}

/// What a call asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    Object(&'a Resource),
    List(&'a Collection, Option<&'a str>),
}

impl Target<'_> {
    pub(super) fn endpoint(self) -> Endpoint {
        match self {
            Self::Object(resource) => match resource {
                Resource::Subscription(_) => Endpoint::Subscription,
                Resource::Customer(_) => Endpoint::Customer,
                Resource::CheckoutSession(_) => Endpoint::CheckoutSession,
                Resource::Invoice(_) => Endpoint::Invoice,
                Resource::Event(_) => Endpoint::Event,
                Resource::Price(_) => Endpoint::Price,
                Resource::Product(_) => Endpoint::Product,
                Resource::Charge(_) => Endpoint::Charge,
                Resource::Dispute(_) => Endpoint::Dispute,
                Resource::Account => Endpoint::Account,
            },
            Self::List(collection, _) => match collection {
                Collection::Subscriptions { .. } => Endpoint::Subscriptions,
                Collection::SubscriptionItems(_) => Endpoint::SubscriptionItems,
                Collection::Invoices(_) => Endpoint::Invoices,
                Collection::CheckoutSessions(_) => Endpoint::CheckoutSessions,
                Collection::Events { .. } => Endpoint::Events,
                Collection::WebhookEndpoints => Endpoint::WebhookEndpoints,
                Collection::Prices { .. } => Endpoint::Price,
            },
        }
    }

    /// What it is about, in Stripe's words, and its id, for an error.
    pub(super) fn subject(self) -> (&'static str, String) {
        match self {
            Self::Object(resource) => (resource.kind(), resource.id().to_owned()),
            Self::List(
                Collection::SubscriptionItems(id) | Collection::Invoices(id) | Collection::CheckoutSessions(id),
                _,
            ) => ("subscription", id.to_string()),
            Self::List(Collection::Subscriptions { customer: Some(id) }, _) => ("customer", id.to_string()),
            Self::List(..) => (self.endpoint().as_str(), String::new()),
        }
    }

    /// The whole address. `None` for an id that no path can hold: it would ask for something else.
    pub(super) fn url(self, base: &Url) -> Option<Url> {
        let mut url = base.clone();
        let segments: &[&str] = match self.endpoint() {
            Endpoint::Subscription | Endpoint::Subscriptions => &["subscriptions"],
            Endpoint::Customer => &["customers"],
            Endpoint::CheckoutSession | Endpoint::CheckoutSessions => &["checkout", "sessions"],
            Endpoint::Invoice | Endpoint::Invoices => &["invoices"],
            Endpoint::Event | Endpoint::Events => &["events"],
            Endpoint::Price => &["prices"],
            Endpoint::Product => &["products"],
            Endpoint::Charge => &["charges"],
            Endpoint::Dispute => &["disputes"],
            Endpoint::Account => &["account"],
            Endpoint::SubscriptionItems => &["subscription_items"],
            Endpoint::WebhookEndpoints => &["webhook_endpoints"],
        };
        let id = match self {
            Self::Object(Resource::Account) | Self::List(..) => None,
            Self::Object(resource) => Some(resource.id()),
        };
        if id.is_some_and(|id| matches!(id, "" | "." | "..")) {
            return None;
        }
        url.path_segments_mut().ok()?.pop_if_empty().push("v1").extend(segments).extend(id);
        if let Self::List(collection, after) = self {
            query(&mut url, collection, after);
        }
        Some(url)
    }
}

/// 100 is the most of a page (node `PaginationParams`).
const PAGE: &str = "100";

fn query(url: &mut Url, collection: &Collection, after: Option<&str>) {
    let mut query = url.query_pairs_mut();
    match collection {
        Collection::Subscriptions { customer } => {
            query.append_pair("status", "all");
            if let Some(customer) = customer {
                query.append_pair("customer", customer.as_str());
            }
        }
        Collection::SubscriptionItems(subscription)
        | Collection::Invoices(subscription)
        | Collection::CheckoutSessions(subscription) => {
            query.append_pair("subscription", subscription.as_str());
        }
        Collection::Events { types, created_gte, created_lte } => {
            match types.as_slice() {
                // For Stripe the same as a list of one; localstripe knows only this.
                [one] => {
                    query.append_pair("type", one);
                }
                several => {
                    query.extend_pairs(several.iter().map(|name| ("types[]", *name)));
                }
            }
            query.append_pair("created[gte]", &created_gte.timestamp().to_string());
            query.append_pair("created[lte]", &created_lte.timestamp().to_string());
        }
        Collection::WebhookEndpoints => {}
        Collection::Prices { lookup_keys } if lookup_keys.is_empty() => {
            query.append_pair("active", "true");
        }
        Collection::Prices { lookup_keys } => {
            query.extend_pairs(lookup_keys.iter().map(|key| ("lookup_keys[]", key)));
        }
    }
    query.append_pair("limit", PAGE);
    if let Some(after) = after {
        query.append_pair("starting_after", after);
    }
}

#[cfg(test)]
mod tests {
    use entity::{
        Time,
        ids::{CustomerId, SubscriptionId},
    };

    use super::*;

    fn base(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    fn of(target: Target<'_>) -> String {
        target.url(&base("https://api.stripe.com")).expect("an address").to_string()
    }

    #[test]
    fn an_object_is_asked_for_by_its_own_address() {
        let sub = SubscriptionId::parse("sub_1").expect("an id");
        assert_eq!(of(Target::Object(&Resource::Subscription(sub))), "https://api.stripe.com/v1/subscriptions/sub_1");
        let session = Resource::CheckoutSession("cs_1".into());
        assert_eq!(of(Target::Object(&session)), "https://api.stripe.com/v1/checkout/sessions/cs_1");
        assert_eq!(of(Target::Object(&Resource::Account)), "https://api.stripe.com/v1/account");
    }

    #[test]
    fn an_id_never_leads_to_another_address() {
        let price = Resource::Price("a/../b?c#d".into());
        assert_eq!(of(Target::Object(&price)), "https://api.stripe.com/v1/prices/a%2F..%2Fb%3Fc%23d");
        for id in ["", ".", ".."] {
            let price = Resource::Price(id.into());
            assert_eq!(Target::Object(&price).url(&base("https://api.stripe.com")), None);
        }
    }

    #[test]
    fn a_base_with_a_path_keeps_it() {
        let target = Target::Object(&Resource::Account);
        for with in ["http://proxy:1/stripe", "http://proxy:1/stripe/"] {
            assert_eq!(target.url(&base(with)).expect("an address").as_str(), "http://proxy:1/stripe/v1/account");
        }
    }

    #[test]
    fn subscriptions_are_listed_whatever_their_status() {
        let all = Collection::Subscriptions { customer: None };
        assert_eq!(
            of(Target::List(&all, Some("sub_9"))),
            "https://api.stripe.com/v1/subscriptions?status=all&limit=100&starting_after=sub_9"
        );
        let of_one = Collection::Subscriptions { customer: Some(CustomerId::parse("cus_1").expect("an id")) };
        assert_eq!(
            of(Target::List(&of_one, None)),
            "https://api.stripe.com/v1/subscriptions?status=all&customer=cus_1&limit=100"
        );
    }

    #[test]
    fn the_checkout_that_sold_a_subscription_is_found_by_it() {
        let sold = Collection::CheckoutSessions(SubscriptionId::parse("sub_1").expect("an id"));
        assert_eq!(
            of(Target::List(&sold, None)),
            "https://api.stripe.com/v1/checkout/sessions?subscription=sub_1&limit=100"
        );
    }

    #[test]
    fn events_are_listed_by_type_and_time() {
        let at = |seconds| Time::from_timestamp(seconds, 0).expect("a moment");
        let events = |types| Collection::Events { types, created_gte: at(100), created_lte: at(200) };
        let two = events(vec!["invoice.paid", "customer.created"]);
        assert_eq!(
            of(Target::List(&two, None)),
            "https://api.stripe.com/v1/events?types%5B%5D=invoice.paid&types%5B%5D=customer.created\
             &created%5Bgte%5D=100&created%5Blte%5D=200&limit=100"
        );
        let one = events(vec!["invoice.paid"]);
        assert!(of(Target::List(&one, None)).contains("?type=invoice.paid&"), "what every fake knows");
    }
}
