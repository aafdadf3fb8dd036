//! The scheduler against real databases.

mod cut_off;
mod operator;
mod outbox_and_retention;
mod retry;
mod running;
mod stripe_jobs;
mod usage_jobs;
mod workshop;
