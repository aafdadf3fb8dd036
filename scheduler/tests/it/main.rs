//! The scheduler against real databases.

mod usage_jobs;
