//! Events: what happened, as it looked then. An event never changes; only who has received it does.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use crate::version::ApiVersion;

/// One event.
#[derive(Debug)]
pub struct Event {
    /// `evt_…`
    pub id: String,
    /// For example `customer.subscription.updated`.
    pub event_type: &'static str,
    /// The second in which it happened, of virtual time.
    pub created: i64,
    /// The subscription it bears on, where it does.
    pub subscription: Option<String>,
    /// `{"object": …, "previous_attributes": …}` as JSON text.
    data: String,
    version: ApiVersion,
    /// `req_…` where somebody asked for it, none where Stripe did it by itself.
    request: Option<String>,
    delivered: AtomicBool,
}

/// What an event is made of.
#[derive(Debug)]
pub(crate) struct NewEvent {
    pub(crate) id: String,
    pub(crate) event_type: &'static str,
    pub(crate) created: i64,
    pub(crate) subscription: Option<String>,
    pub(crate) object: Value,
    pub(crate) previous: Option<Value>,
    pub(crate) version: ApiVersion,
    pub(crate) request: Option<String>,
}

impl Event {
    pub(crate) fn new(new: NewEvent) -> Arc<Self> {
        let NewEvent { id, event_type, created, subscription, object, previous, version, request } = new;
        let mut data = json!({ "object": object });
        if let Some(previous) = previous {
            data["previous_attributes"] = previous;
        }
        let delivered = AtomicBool::new(false);
        Arc::new(Self { id, event_type, created, subscription, data: data.to_string(), version, request, delivered })
    }

    /// The same change told once more under another id, which happens at Stripe too (docs.stripe.com/webhooks, "Handle duplicate
    /// events").
    pub(crate) fn twin(&self, id: String) -> Arc<Self> {
        Arc::new(Self {
            id,
            event_type: self.event_type,
            created: self.created,
            subscription: self.subscription.clone(),
            data: self.data.clone(),
            version: self.version,
            request: self.request.clone(),
            delivered: AtomicBool::new(false),
        })
    }

    /// Whether every endpoint that wants it has answered 2xx.
    pub fn is_delivered(&self) -> bool {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(crate) fn set_delivered(&self) {
        self.delivered.store(true, Ordering::Relaxed);
    }

    /// The body that is sent, and what `GET /v1/events/:id` answers.
    pub fn body(&self) -> String {
        let request = match &self.request {
            Some(request) => format!("{{\"id\":\"{request}\",\"idempotency_key\":null}}"),
            None => "{\"id\":null,\"idempotency_key\":null}".to_owned(),
        };
        format!(
            "{{\"id\":\"{}\",\"object\":\"event\",\"api_version\":\"{}\",\"created\":{},\"data\":{},\"livemode\":false,\
             \"pending_webhooks\":{},\"request\":{request},\"type\":\"{}\"}}",
            self.id,
            self.version,
            self.created,
            self.data,
            u8::from(!self.is_delivered()),
            self.event_type
        )
    }
}
