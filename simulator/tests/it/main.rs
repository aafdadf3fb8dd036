//! Tests of the simulated Stripe over HTTP.

mod api;
mod deliveries;
