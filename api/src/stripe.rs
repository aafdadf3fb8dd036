//! The client of Stripe's API, as the configuration wants it.

use std::sync::Arc;

use billing::stripe::{ApiKey, ClientError, ClientOptions, Stripe, StripeClient};

use crate::config::Config;

/// A client with the configured key; none without one. Nothing is called yet.
pub(crate) fn connect(config: &Config) -> Result<Option<Arc<dyn Stripe>>, ClientError> {
    let Some(key) = &config.stripe_secret_key else { return Ok(None) };
    let key = ApiKey::parse(key.expose())?;
    let client = StripeClient::new(&config.stripe_api_base, key, ClientOptions::default(), Arc::new(|_| {}))?;
    Ok(Some(Arc::new(client)))
}
