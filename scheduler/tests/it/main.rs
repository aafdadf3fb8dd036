//! The scheduler against real databases.

mod outbox_and_retention;
