//! The scheduler against real databases.

mod cut_off;
mod operator;
mod retry;
mod running;
mod workshop;
