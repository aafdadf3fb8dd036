//! What becomes of claimed events, as the inbox is told.

use entity::{Time, enums::ProcessingStatus, ids::SubscriptionId};

use super::failure::{self, PARKED_AT_MOST, fingerprint, parked_pause, short};
use crate::{
    apply::{Applied, Verdict},
    store::inbox::{ClaimedRow, Mark},
};

/// The ending of an attempt, with nothing else to say.
pub(super) fn mark_of(row: &ClaimedRow, status: ProcessingStatus) -> Mark {
    Mark {
        id: row.id,
        status,
        attempts: row.processing_attempts + 1,
        user_id: None,
        error: None,
        details: None,
        fingerprint: None,
        waits_for: None,
        delay: None,
    }
}

/// What becomes of an event that was applied.
pub(super) fn verdict_mark(
    row: &ClaimedRow,
    applied: &Applied,
    now: Time,
    freed: impl Fn(&SubscriptionId) -> bool,
) -> Mark {
    // What earlier attempts left stays to be read.
    let details = row.processing_error_details.clone();
    match &applied.verdict {
        Verdict::Completed { .. } => {
            let details = match (details, applied.note) {
                (None, None) => None,
                (earlier, note) => {
                    // SQL may have put anything there.
                    let mut details =
                        earlier.filter(serde_json::Value::is_object).unwrap_or_else(|| serde_json::json!({}));
                    details["note"] = serde_json::json!(note);
                    Some(details)
                }
            };
            Mark { user_id: applied.user, details, ..mark_of(row, ProcessingStatus::Completed) }
        }
        Verdict::Parked(subscription) if now - row.created_at >= PARKED_AT_MOST => {
            let error =
                format!("unmatched user: {subscription} found no user within {} days", PARKED_AT_MOST.num_days());
            let chain = [error.clone()];
            let attempts = row.processing_attempts;
            let tried = u32::try_from(attempts).unwrap_or(0);
            Mark {
                attempts,
                details: Some(failure::details(details.as_ref(), "unmatched", &chain, tried, now)),
                fingerprint: Some(fingerprint(&row.event_type, "unmatched", "unmatched user")),
                error: Some(error),
                ..mark_of(row, ProcessingStatus::Failed)
            }
        }
        Verdict::Parked(subscription) => Mark {
            attempts: row.processing_attempts,
            details,
            error: Some("unmatched user".to_owned()),
            waits_for: Some(subscription.to_string()),
            delay: Some(if freed(subscription) { 0.0 } else { parked_pause(now - row.created_at) }),
            ..mark_of(row, ProcessingStatus::Pending)
        },
    }
}

/// The event waits, through no fault of its own: no attempt is counted.
pub(super) fn postponed_mark(row: &ClaimedRow, reason: &str, delay: f64) -> Mark {
    Mark {
        attempts: row.processing_attempts,
        details: row.processing_error_details.clone(),
        error: Some(short(reason)),
        delay: Some(delay),
        ..mark_of(row, ProcessingStatus::Pending)
    }
}
