//! The scheduler against real databases.

mod stripe_jobs;
