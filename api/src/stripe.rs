//! The client of Stripe's API, as configured, and what it does in Prometheus's words.

use std::sync::Arc;

use billing::stripe::{
    Answer, ApiKey, ClientError, ClientObserver, ClientOptions, Endpoint, Lane, Observation, Stripe, StripeClient,
};
use metrics::{
    Metrics,
    labels::{StripeAnswer, StripeEndpoint, StripeLane},
};

use crate::config::Config;

/// The client; none without a key. A server counts its calls, a command does not.
pub(crate) fn client(config: &Config, metrics: Option<Arc<Metrics>>) -> Result<Option<Arc<dyn Stripe>>, ClientError> {
    let Some(key) = &config.stripe_secret_key else { return Ok(None) };
    let observer: ClientObserver = match metrics {
        Some(metrics) => Arc::new(move |observation| observe(&metrics, observation)),
        None => Arc::new(|_| {}),
    };
    let key = ApiKey::parse(key.expose())?;
    let options = ClientOptions { account: config.intake_rules.account.clone(), ..config.stripe.clone() };
    let client = StripeClient::new(&config.stripe_api_base, key, options, observer)?;
    Ok(Some(Arc::new(client)))
}

fn observe(metrics: &Metrics, observation: Observation) {
    match observation {
        Observation::Waited { lane, seconds } => metrics.stripe_waited(lane_label(lane), seconds),
        Observation::Tried { endpoint, answer, seconds } => {
            metrics.stripe_called(endpoint_label(endpoint), answer_label(answer), seconds);
        }
        Observation::Retried { .. } => metrics.stripe_retried(),
        Observation::Clock { ahead } => metrics.stripe_clock_seen(ahead),
    }
}

fn lane_label(lane: Lane) -> StripeLane {
    match lane {
        Lane::Live => StripeLane::Live,
        Lane::Background => StripeLane::Background,
    }
}

fn answer_label(answer: Answer) -> StripeAnswer {
    match answer {
        Answer::Success => StripeAnswer::Success,
        Answer::Redirection => StripeAnswer::Redirection,
        Answer::KeyRefused => StripeAnswer::KeyRefused,
        Answer::Limited => StripeAnswer::Limited,
        Answer::ClientError => StripeAnswer::ClientError,
        Answer::ServerError => StripeAnswer::ServerError,
        Answer::TimedOut => StripeAnswer::TimedOut,
        Answer::Broken => StripeAnswer::Broken,
    }
}

fn endpoint_label(endpoint: Endpoint) -> StripeEndpoint {
    match endpoint {
        Endpoint::Subscription => StripeEndpoint::Subscription,
        Endpoint::Customer => StripeEndpoint::Customer,
        Endpoint::CheckoutSession => StripeEndpoint::CheckoutSession,
        Endpoint::Invoice => StripeEndpoint::Invoice,
        Endpoint::Event => StripeEndpoint::Event,
        Endpoint::Price => StripeEndpoint::Price,
        Endpoint::Product => StripeEndpoint::Product,
        Endpoint::Charge => StripeEndpoint::Charge,
        Endpoint::Dispute => StripeEndpoint::Dispute,
        Endpoint::Account => StripeEndpoint::Account,
        Endpoint::Subscriptions => StripeEndpoint::Subscriptions,
        Endpoint::SubscriptionItems => StripeEndpoint::SubscriptionItems,
        Endpoint::Invoices => StripeEndpoint::Invoices,
        Endpoint::CheckoutSessions => StripeEndpoint::CheckoutSessions,
        Endpoint::Events => StripeEndpoint::Events,
        Endpoint::WebhookEndpoints => StripeEndpoint::WebhookEndpoints,
    }
}
