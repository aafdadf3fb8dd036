//! Tests of the HTTP surface as its callers see it, on every kind of database at hand.

mod cli_commands;
mod config_mistakes;
mod http_admin;
mod http_gates;
mod http_server;
mod http_subscriptions;
mod http_users;
mod http_webhook;
mod process_database;
mod process_harness;
mod process_start;
mod process_stop;
mod simulate;
