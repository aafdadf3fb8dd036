//! Which events are ours to apply. All are stored; the others are `skipped`, with the reason.

use crate::{
    event::VerifiedEvent,
    events,
    skip::{Skip, SkipReason},
};

/// What decides it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntakeRules {
    /// The mode we serve; none takes whatever the secret signs.
    pub livemode: Option<bool>,
    /// The Connect account we serve; none serves the platform's own events only.
    pub account: Option<String>,
}

/// Where an event goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// To be applied.
    Apply,
    /// Stored only, for this reason.
    Skip(Skip),
}

impl IntakeRules {
    /// Decides from what the envelope says.
    pub fn decide(&self, event_type: &str, livemode: Option<bool>, account: Option<&str>) -> Arrival {
        let mode = |live: bool| if live { "live" } else { "test" };
        if let (Some(ours), Some(theirs)) = (self.livemode, livemode)
            && ours != theirs
        {
            let (theirs, ours) = (mode(theirs), mode(ours));
            let text = format!("an event of the {theirs} mode; this server serves {ours} mode (STRIPE_LIVEMODE)");
            return Arrival::Skip(Skip::new(SkipReason::OtherMode, text));
        }
        if account.is_some() && account != self.account.as_deref() {
            return Arrival::Skip(Skip::new(SkipReason::ForeignAccount, "an event of another Connect account"));
        }
        if !events::handles(event_type) {
            return Arrival::Skip(Skip::unhandled("an event type that changes nothing here"));
        }
        Arrival::Apply
    }
}

/// Decides where an event goes.
pub fn route(event: &VerifiedEvent, rules: &IntakeRules) -> Arrival {
    rules.decide(event.event_type(), event.livemode(), event.account())
}
