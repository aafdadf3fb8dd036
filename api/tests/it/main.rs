//! Tests of the HTTP surface as its callers see it, on every kind of database at hand.

mod cli_commands;
mod cli_jobs;
mod cli_stripe;
mod cli_usage;
mod config_mistakes;
mod http_admin;
mod http_changes;
mod http_edge;
mod http_gates;
mod http_hostile;
mod http_jobs;
mod http_reconciliations;
mod http_server;
mod http_subscriptions;
mod http_usage;
mod http_users;
mod http_webhook;
mod process_database;
mod process_edge;
mod process_harness;
mod process_secrets;
mod process_start;
mod process_stop;
mod refresh;
mod simulate;
