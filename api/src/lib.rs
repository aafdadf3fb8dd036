//! Trueup's HTTP surface and command line: the only place where everything is put together.
//!
//! - [`app`]: what a running server shares
//! - [`config`]: environment and `trueup.toml`, every mistake told at once
//! - [`http`]: routes, auth, problems, OpenAPI
//! - [`cli`]: `trueup …`
//! - [`background`]: what a request begins and does not wait for; [`observe`]: reports as metrics
//! - `scrape`, `census`: what metrics have to ask the database for; `telemetry`: log lines, panics, Sentry
//! - [`server`]: connections beneath the routes, and their bounds; `quiet`: log lines that outsiders can cause
//! - [`jobs`]: the scheduler, put together
//! - [`mailing`]: sends e-mails as soon as they are queued
//! - `assemble` puts a server together; [`serve`]: starts and stops all of it

pub mod app;
mod assemble;
pub mod background;
mod census;
pub mod cli;
pub mod config;
pub mod http;
pub mod jobs;
pub mod mailing;
pub mod observe;
mod quiet;
mod scrape;
pub mod serve;
pub mod server;
mod stripe;
mod telemetry;
