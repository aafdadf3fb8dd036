//! Trueup's HTTP surface and command line: the only place where everything is put together.
//!
//! - [`app`]: what a running server shares
//! - [`config`]: environment and `trueup.toml`, every mistake told at once
//! - [`http`]: routes, auth, problems, OpenAPI
//! - [`cli`]: `trueup …`
//! - [`serve`]: starts and stops all of it

pub mod app;
pub mod cli;
pub mod config;
pub mod http;
pub mod serve;
mod stripe;
mod telemetry;
