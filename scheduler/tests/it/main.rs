//! The scheduler against real databases.
