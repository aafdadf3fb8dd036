//! Where Stripe delivers. Nothing slower than the commit happens here.

use std::sync::LazyLock;

use billing::{
    event,
    inbox::{self, Arrival, Receipt, ReceiveError},
};
use chrono::Utc;
use metrics::labels::{RejectReason, WebhookOutcome};
use poem::{
    Request,
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{Enum, Object, OpenApi};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    Tag,
    body::{Answer, Raw, read},
    client,
    observe::milliseconds,
    problem::{BAD_REQUEST, Kind, NOT_STORABLE, NOT_STORED, Problem, RETRY_AFTER, TOO_LARGE, TOO_SLOW},
};
use crate::{app::App, observe::skip_label, quiet::Quiet};

/// Largest event, in bytes.
const MAX_EVENT: usize = 1 << 20;

const SIGNATURE: &str = "stripe-signature";

/// Anybody can send what is refused, as often as they like.
static REFUSED: LazyLock<Quiet> = LazyLock::new(Quiet::default);
/// What could not be stored.
static UNSTORED: LazyLock<Quiet> = LazyLock::new(Quiet::default);

#[derive(Debug, Clone)]
pub(super) struct WebhookApi(pub(super) App);

/// What became of a delivery. All three are stored.
#[derive(Debug, Clone, Copy, Serialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase", rename = "DeliveryOutcome")]
enum Stored {
    /// New, and to be applied.
    Recorded,
    /// The event was there.
    Duplicate,
    /// New, and not ours to apply.
    Skipped,
}

/// The delivery is stored, and will survive whatever happens to this server.
#[derive(Debug, Serialize, Object)]
struct Acknowledged {
    /// Always true.
    received: bool,
    /// Stripe's id.
    event_id: String,
    /// What became of it.
    outcome: Stored,
}

#[OpenApi]
impl WebhookApi {
    /// Takes an event of Stripe
    ///
    /// The body is the event as Stripe signed it, at most 1 MiB. 200 means that it is stored; what is answered 503 is not, and Stripe
    /// sends it again.
    #[oai(
        path = "/api/v1/stripe/webhook",
        method = "post",
        operation_id = "receiveWebhook",
        tag = "Tag::Stripe",
        request_header(name = "Stripe-Signature", ty = "String", description = "Stripe's signature over the body")
    )]
    async fn receive(&self, request: &Request, body: Raw) -> Result<Answer<Acknowledged>, Problem> {
        let Self(app) = self;
        let peer = || client::shown(request);
        let body = read(request, body.0, MAX_EVENT).await.inspect_err(|problem| {
            let reason = match problem.kind() {
                TOO_LARGE => RejectReason::TooLarge,
                TOO_SLOW | BAD_REQUEST => RejectReason::Incomplete,
                _ => RejectReason::Other,
            };
            app.metrics.webhook_rejected(reason);
            let declared = request.header(header::CONTENT_LENGTH);
            if let Some(unsaid) = REFUSED.may_say() {
                tracing::warn!(reason = reason.as_str(), declared, peer = peer(), unsaid, "refused a webhook");
            }
        })?;
        let start = Instant::now();
        // Of several headers the first: it is as good a guess as any, and a wrong one is a mismatch.
        let signature = request.headers().get(SIGNATURE).map(HeaderValue::as_bytes);
        let event = event::verify(&body, signature, &app.secrets, Utc::now(), app.tolerance).map_err(|rejection| {
            let reason = rejection.reason();
            app.metrics.webhook_rejected(RejectReason::named(reason));
            if let Some(unsaid) = REFUSED.may_say() {
                tracing::warn!(reason, bytes = body.len(), peer = peer(), unsaid, "refused a webhook");
            }
            let kind = Kind::new(reason, StatusCode::BAD_REQUEST, "Not an event of Stripe");
            Problem::new(kind, rejection.to_string())
        })?;
        let (event_id, event_type) = (event.id().to_string(), event.event_type().to_owned());
        let arrival = inbox::route(&event, &app.intake);
        let skipped = match &arrival {
            Arrival::Apply => None,
            Arrival::Skip(skip) => Some(skip.reason),
        };
        let received = app.inbox.receive(event, arrival).await;

        let (outcome, answer) = match received {
            Ok(Receipt::Recorded) => (WebhookOutcome::Recorded, Ok(Stored::Recorded)),
            Ok(Receipt::Duplicate) => (WebhookOutcome::Duplicate, Ok(Stored::Duplicate)),
            Ok(Receipt::Skipped) => (WebhookOutcome::Skipped, Ok(Stored::Skipped)),
            Err(error @ ReceiveError::Refused(_)) => {
                tracing::warn!(%event_id, %error, "the database cannot hold an event");
                let detail = "the database cannot hold this event; the server's log tells why";
                (WebhookOutcome::Refused, Err(Problem::new(NOT_STORABLE, detail)))
            }
            Err(error @ (ReceiveError::QueueFull | ReceiveError::Unavailable | ReceiveError::Stopping)) => {
                (WebhookOutcome::Unavailable, Err(Problem::later(NOT_STORED, error.to_string(), RETRY_AFTER)))
            }
        };
        let took = start.elapsed();
        app.metrics.webhook_received(&event_type, outcome);
        if let (WebhookOutcome::Skipped, Some(reason)) = (outcome, skipped) {
            app.metrics.events_skipped(skip_label(reason), 1);
        }
        if answer.is_ok() {
            // What could not be stored counts as an answer 5xx; were it here as well, whoever adds the two up would count it twice.
            app.metrics.webhook_acknowledged_after(took.as_secs_f64());
        }
        // Where nothing can be stored Stripe sends again and again; the first lines say it all.
        let unsaid = if matches!(outcome, WebhookOutcome::Unavailable) { UNSTORED.may_say() } else { Some(0) };
        if let Some(unsaid) = unsaid {
            let (outcome, milliseconds) = (outcome.as_str(), milliseconds(took));
            tracing::info!(%event_id, event_type, outcome, milliseconds, unsaid, "webhook");
        }
        Ok(Answer(Acknowledged { received: true, event_id, outcome: answer? }))
    }
}

#[cfg(test)]
mod tests {
    use billing::{
        event::{NotAnEvent, Rejection},
        signature::SignatureError,
    };

    use super::*;

    #[test]
    fn every_reason_of_the_domain_has_a_label_of_its_own() {
        let signature = [
            SignatureError::Missing,
            SignatureError::Malformed("no t"),
            SignatureError::NoV1,
            SignatureError::Mismatch,
            SignatureError::Expired { age_seconds: 301, tolerated_seconds: 300 },
            SignatureError::Future { ahead_seconds: 301, tolerated_seconds: 300 },
        ];
        let rejections = signature.map(Rejection::Signature).into_iter().chain([NotAnEvent::NoId.into()]);
        for rejection in rejections {
            assert_ne!(RejectReason::named(rejection.reason()), RejectReason::Other, "{rejection}");
        }
    }
}
