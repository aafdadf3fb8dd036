//! A Stripe in this process: knows subscriptions, customers and events, has a clock of its own, and can be away, hang or refuse. It counts its
//! calls, and checks that none is made while a transaction is open.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use billing::{
    db::Db,
    stripe::{Collection, Fetched, Lane, Listed, Page, Resource, Stripe, StripeError},
};
use entity::Time;
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use serde_json::{Value, json};

use crate::desk::NOW;

/// How it is today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// Answers after so long.
    Slow(Duration),
    /// 503, 429, no connection: it may pass.
    Down,
    /// No answer, for ever.
    Hangs,
    /// The key is revoked.
    RefusesKey,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    now: i64,
    /// By kind and id.
    objects: BTreeMap<(&'static str, String), Value>,
    items: BTreeMap<String, Vec<Value>>,
    endless_items: bool,
    in_flight: usize,
    most_in_flight: usize,
    violations: Vec<String>,
}

/// The fake. Its clock stands at [`NOW`] until it is set.
#[derive(Debug)]
pub(crate) struct FakeStripe {
    state: Mutex<State>,
    calls: AtomicUsize,
    watched: Option<Db>,
}

impl FakeStripe {
    pub(crate) fn new() -> Self {
        let state = State {
            mood: Mood::Well,
            now: NOW,
            objects: BTreeMap::new(),
            items: BTreeMap::new(),
            endless_items: false,
            in_flight: 0,
            most_in_flight: 0,
            violations: Vec::new(),
        };
        Self { state: Mutex::new(state), calls: AtomicUsize::new(0), watched: None }
    }

    /// Checks on every call that no transaction is open in this database. Only for tests where nobody else writes meanwhile.
    pub(crate) fn watching(db: &Db) -> Self {
        Self { watched: Some(db.clone()), ..Self::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub(crate) fn clock(&self, now: i64) {
        self.state().now = now;
    }

    /// From now on it knows this subscription so.
    pub(crate) fn subscription(&self, object: Value) {
        self.know("subscription", object);
    }

    pub(crate) fn customer(&self, object: Value) {
        self.know("customer", object);
    }

    fn know(&self, kind: &'static str, object: Value) {
        let id = object["id"].as_str().expect("an id").to_owned();
        self.state().objects.insert((kind, id), object);
    }

    pub(crate) fn forget_subscription(&self, id: &str) {
        self.state().objects.remove(&("subscription", id.to_owned()));
    }

    /// All items of a subscription.
    pub(crate) fn items(&self, subscription: &str, items: Vec<Value>) {
        self.state().items.insert(subscription.to_owned(), items);
    }

    /// Every list of items goes on for ever.
    pub(crate) fn endless_items(&self) {
        self.state().endless_items = true;
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.state().most_in_flight
    }

    /// No call was made while a transaction was open.
    pub(crate) fn assert_no_call_within_a_transaction(&self) {
        assert!(self.watched.is_some() && self.calls() > 0, "nothing was watched");
        assert_eq!(self.state().violations, Vec::<String>::new());
    }

    async fn look(&self, what: &str) {
        let Some(db) = &self.watched else { return };
        let open = if db.backend() == DbBackend::Sqlite {
            // Whoever holds the one writer now waits for us.
            tokio::time::timeout(Duration::from_secs(3), db.write()).await.is_err()
        } else {
            let sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
            let statement = Statement::from_string(db.backend(), sql);
            db.reader().query_one_raw(statement).await.expect("the database answers").is_some()
        };
        if open {
            self.state().violations.push(what.to_owned());
        }
    }

    async fn answer<T>(
        &self,
        what: &str,
        answer: impl FnOnce(&State, Time) -> Result<T, StripeError>,
    ) -> Result<T, StripeError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let _flight = Flight::begin(self);
        self.look(what).await;
        let mood = self.state().mood;
        match mood {
            Mood::Well => {}
            Mood::Slow(time) => tokio::time::sleep(time).await,
            Mood::Hangs => std::future::pending().await,
            Mood::Down => {
                let reason = "too many calls of this account in a second (429)".to_owned();
                return Err(StripeError::Unavailable { reason, request: None });
            }
            Mood::RefusesKey => {
                let message = "Invalid API Key provided: sk_…".to_owned();
                return Err(StripeError::Key { message, request: None });
            }
        }
        let state = self.state();
        let at = Time::from_timestamp(state.now, 0).expect("a moment");
        answer(&state, at)
    }
}

/// One call that is under way.
struct Flight<'a>(&'a FakeStripe);

impl<'a> Flight<'a> {
    fn begin(fake: &'a FakeStripe) -> Self {
        let mut state = fake.state();
        state.in_flight += 1;
        state.most_in_flight = state.most_in_flight.max(state.in_flight);
        Self(fake)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
    }
}

#[async_trait::async_trait]
impl Stripe for FakeStripe {
    async fn get(&self, resource: &Resource, _: Lane) -> Result<Fetched, StripeError> {
        self.answer(resource.id(), |state, at| {
            let found = state.objects.get(&(resource.kind(), resource.id().to_owned()));
            let object = found.map(ToString::to_string).ok_or_else(|| StripeError::Missing {
                kind: resource.kind(),
                id: resource.id().to_owned(),
                request: None,
            })?;
            Ok(Fetched { object, at })
        })
        .await
    }

    async fn list(&self, collection: &Collection, after: Option<&str>, _: Lane) -> Result<Page, StripeError> {
        self.answer("a list", |state, at| {
            let of_kind = |kind: &'static str| {
                state.objects.iter().filter(move |((named, _), _)| *named == kind).map(|(_, object)| object.clone())
            };
            let all: Vec<Value> = match collection {
                Collection::Subscriptions { customer } => of_kind("subscription")
                    .filter(|s| customer.as_ref().is_none_or(|c| s["customer"] == json!(c.as_str())))
                    .collect(),
                Collection::SubscriptionItems(_) if state.endless_items => {
                    let next = after.map_or(0, |id| id.trim_start_matches("si_").parse::<usize>().expect("ours") + 1);
                    let listed =
                        Listed { id: format!("si_{next}"), object: json!({ "id": format!("si_{next}") }).to_string() };
                    return Ok(Page { objects: vec![listed], has_more: true, at });
                }
                Collection::SubscriptionItems(id) => state.items.get(id.as_str()).cloned().unwrap_or_default(),
                Collection::Events { types, created_gte, created_lte } => of_kind("event")
                    .filter(|event| types.iter().any(|name| event["type"] == json!(name)))
                    .filter(|event| {
                        let created = event["created"].as_i64().unwrap_or_default();
                        (created_gte.timestamp()..=created_lte.timestamp()).contains(&created)
                    })
                    .collect(),
                Collection::Invoices(_)
                | Collection::CheckoutSessions(_)
                | Collection::WebhookEndpoints
                | Collection::Prices { .. } => Vec::new(),
            };
            let id = |object: &Value| object["id"].as_str().expect("an id").to_owned();
            let from = after.map_or(0, |after| all.iter().position(|o| id(o) == after).map_or(all.len(), |at| at + 1));
            let page = all.iter().skip(from).take(100);
            let objects: Vec<_> = page.map(|o| Listed { id: id(o), object: o.to_string() }).collect();
            Ok(Page { has_more: from + objects.len() < all.len(), objects, at })
        })
        .await
    }
}
