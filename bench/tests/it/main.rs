//! Proofs with real processes, short enough for every day.

mod slots;
