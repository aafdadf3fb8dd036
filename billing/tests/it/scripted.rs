//! Stripe as a test scripts it: what there is, what fails, and what happens meanwhile.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use billing::stripe::{Collection, Fetched, Lane, Listed, Page, Resource, Stripe, StripeError};
use entity::Time;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::desk::NOW;

type Meanwhile = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// A Stripe of the test's own. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Scripted(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    calls: AtomicUsize,
}

struct State {
    account: Result<String, StripeError>,
    /// Newest first.
    subscriptions: Vec<Value>,
    /// Known by their id, and in no list: as those of test clocks are.
    unlisted: Vec<Value>,
    customers: BTreeMap<String, Value>,
    prices: Vec<String>,
    listed_prices: Vec<Value>,
    /// Newest first.
    events: Vec<Value>,
    endpoints: Vec<Value>,
    items: BTreeMap<String, Vec<Value>>,
    sessions: Vec<Value>,
    page_size: usize,
    at: i64,
    failures: BTreeMap<String, StripeError>,
    meanwhile: BTreeMap<String, Meanwhile>,
    log: Vec<String>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scripted").finish_non_exhaustive()
    }
}

impl Scripted {
    pub(crate) fn new() -> Self {
        let state = State {
            account: Ok("acct_1".to_owned()),
            subscriptions: Vec::new(),
            unlisted: Vec::new(),
            customers: BTreeMap::new(),
            prices: Vec::new(),
            listed_prices: Vec::new(),
            events: Vec::new(),
            endpoints: Vec::new(),
            items: BTreeMap::new(),
            sessions: Vec::new(),
            page_size: 100,
            at: NOW,
            failures: BTreeMap::new(),
            meanwhile: BTreeMap::new(),
            log: Vec::new(),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), calls: AtomicUsize::new(0) }))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.state.lock().expect("no test panics while it holds this"))
    }

    /// What the list of subscriptions shows, newest first.
    pub(crate) fn subscriptions(&self, subscriptions: impl IntoIterator<Item = Value>) {
        self.with(|state| state.subscriptions = subscriptions.into_iter().collect());
    }

    /// What is known by its id and comes in no list.
    pub(crate) fn unlisted(&self, subscriptions: impl IntoIterator<Item = Value>) {
        self.with(|state| state.unlisted = subscriptions.into_iter().collect());
    }

    pub(crate) fn customer(&self, customer: Value) {
        let id = customer["id"].as_str().expect("a customer has an id").to_owned();
        self.with(|state| state.customers.insert(id, customer));
    }

    pub(crate) fn prices(&self, prices: &[&str]) {
        self.with(|state| state.prices = prices.iter().map(ToString::to_string).collect());
    }

    /// What the list of prices holds, newest first.
    pub(crate) fn listed_prices(&self, prices: impl IntoIterator<Item = Value>) {
        self.with(|state| state.listed_prices = prices.into_iter().collect());
    }

    /// What the list of events holds.
    pub(crate) fn events(&self, events: impl IntoIterator<Item = Value>) {
        self.with(|state| {
            state.events = events.into_iter().collect();
            state.events.sort_by_key(|event| std::cmp::Reverse(event["created"].as_i64()));
        });
    }

    pub(crate) fn endpoints(&self, endpoints: impl IntoIterator<Item = Value>) {
        self.with(|state| state.endpoints = endpoints.into_iter().collect());
    }

    /// All the items of a subscription that embeds only some.
    pub(crate) fn items(&self, subscription: &str, items: Vec<Value>) {
        self.with(|state| state.items.insert(subscription.to_owned(), items));
    }

    /// Every checkout there is.
    pub(crate) fn sessions(&self, sessions: impl IntoIterator<Item = Value>) {
        self.with(|state| state.sessions = sessions.into_iter().collect());
    }

    pub(crate) fn account(&self, account: Result<&str, StripeError>) {
        self.with(|state| state.account = account.map(str::to_owned));
    }

    pub(crate) fn page_size(&self, size: usize) {
        self.with(|state| state.page_size = size);
    }

    /// The second that answers belong to.
    pub(crate) fn at(&self, second: i64) {
        self.with(|state| state.at = second);
    }

    /// This call, as [`Scripted::log`] shows it, fails so from now on.
    pub(crate) fn fail(&self, call: &str, error: StripeError) {
        self.with(|state| state.failures.insert(call.to_owned(), error));
    }

    /// Nothing fails any more.
    pub(crate) fn mend(&self) {
        self.with(|state| state.failures.clear());
    }

    /// While this call is on its way, this happens.
    pub(crate) fn meanwhile(&self, call: &str, what: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) {
        self.with(|state| state.meanwhile.insert(call.to_owned(), Arc::new(what)));
    }

    /// Every call since the last look, like `subscriptions after sub_1` and `subscription sub_1`.
    pub(crate) fn log(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.log))
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }

    async fn come(&self, call: &str) -> Result<(), StripeError> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let meanwhile = self.with(|state| {
            state.log.push(call.to_owned());
            state.meanwhile.get(call).cloned()
        });
        if let Some(meanwhile) = meanwhile {
            meanwhile().await;
        }
        match self.with(|state| state.failures.get(call).cloned()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

pub(crate) fn unavailable() -> StripeError {
    StripeError::Unavailable { reason: "it answered 503 four times".to_owned(), request: Some("req_1".to_owned()) }
}

pub(crate) fn no_permission(what: &'static str) -> StripeError {
    StripeError::Permission { what, message: "this key has no such permission".to_owned(), request: None }
}

fn missing(resource: &Resource) -> StripeError {
    StripeError::Missing { kind: resource.kind(), id: resource.id().to_owned(), request: None }
}

fn id(object: &Value) -> &str {
    object["id"].as_str().expect("every object of a list has an id")
}

#[async_trait]
impl Stripe for Scripted {
    async fn get(&self, resource: &Resource, _: Lane) -> Result<Fetched, StripeError> {
        self.come(format!("{} {}", resource.kind(), resource.id()).trim_end()).await?;
        self.with(|state| {
            let at = Time::from_timestamp(state.at, 0).expect("a moment");
            let object = match resource {
                Resource::Account => {
                    state.account.clone().map(|account| json!({"id": account, "object": "account"}))?.into()
                }
                Resource::Subscription(wanted) => {
                    let mut all = state.subscriptions.iter().chain(&state.unlisted);
                    all.find(|subscription| id(subscription) == wanted.as_str()).cloned()
                }
                Resource::Customer(wanted) => state.customers.get(wanted.as_str()).cloned(),
                Resource::Price(price) => state.prices.contains(price).then(|| json!({"id": price})),
                _ => None,
            };
            let object = object.ok_or_else(|| missing(resource))?;
            Ok(Fetched { object: object.to_string(), at })
        })
    }

    async fn list(&self, collection: &Collection, after: Option<&str>, _: Lane) -> Result<Page, StripeError> {
        let name = match collection {
            Collection::Subscriptions { customer: None } => "subscriptions".to_owned(),
            Collection::Subscriptions { customer: Some(customer) } => format!("subscriptions of {customer}"),
            Collection::SubscriptionItems(subscription) => format!("items of {subscription}"),
            Collection::Invoices(subscription) => format!("invoices of {subscription}"),
            Collection::CheckoutSessions(subscription) => format!("checkouts of {subscription}"),
            Collection::Events { types, created_gte, created_lte } => {
                assert!(types.len() <= 20, "Stripe refuses more types than 20");
                format!("events {}..{}", created_gte.timestamp() - NOW, created_lte.timestamp() - NOW)
            }
            Collection::WebhookEndpoints => "endpoints".to_owned(),
            Collection::Prices { lookup_keys } if lookup_keys.is_empty() => "prices".to_owned(),
            Collection::Prices { lookup_keys } => format!("prices of {}", lookup_keys.join(", ")),
        };
        self.come(&after.map_or(name.clone(), |after| format!("{name} after {after}"))).await?;
        self.with(|state| {
            let all: Vec<&Value> = match collection {
                Collection::Subscriptions { customer: None } => state.subscriptions.iter().collect(),
                Collection::Subscriptions { customer: Some(customer) } => {
                    let theirs = |subscription: &&Value| subscription["customer"].as_str() == Some(customer.as_str());
                    state.subscriptions.iter().chain(&state.unlisted).filter(theirs).collect()
                }
                Collection::SubscriptionItems(wanted) => {
                    state.items.get(wanted.as_str()).into_iter().flatten().collect()
                }
                Collection::Events { types, created_gte, created_lte } => {
                    let within = |event: &&Value| {
                        let created = event["created"].as_i64().expect("a second");
                        (created_gte.timestamp()..=created_lte.timestamp()).contains(&created)
                            && types.iter().any(|event_type| event["type"] == **event_type)
                    };
                    state.events.iter().filter(within).collect()
                }
                Collection::WebhookEndpoints => state.endpoints.iter().collect(),
                Collection::Invoices(_) => Vec::new(),
                Collection::Prices { lookup_keys } => {
                    let fits = |price: &&Value| match price["lookup_key"].as_str() {
                        _ if lookup_keys.is_empty() => price["active"] == true,
                        Some(key) => lookup_keys.iter().any(|wanted| wanted == key),
                        None => false,
                    };
                    state.listed_prices.iter().filter(fits).collect()
                }
                Collection::CheckoutSessions(wanted) => {
                    let sold = |session: &&Value| session["subscription"].as_str() == Some(wanted.as_str());
                    state.sessions.iter().filter(sold).collect()
                }
            };
            let begin = match after {
                None => 0,
                Some(after) => all.iter().position(|object| id(object) == after).expect("a cursor of ours") + 1,
            };
            let page: Vec<Listed> = all[begin..]
                .iter()
                .take(state.page_size)
                .map(|object| Listed { id: id(object).to_owned(), object: object.to_string() })
                .collect();
            let has_more = begin + page.len() < all.len();
            Ok(Page { objects: page, has_more, at: Time::from_timestamp(state.at, 0).expect("a moment") })
        })
    }
}
