//! The job that applies what is due and was not applied.
