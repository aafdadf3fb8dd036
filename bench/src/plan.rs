//! Everything that is sent, made before the clock runs.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use billing::signature::{WebhookSecret, sign};
use tokio::time::Instant;

use crate::{events::Events, http::Target};

/// How much is sent, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Requests.
    pub(crate) requests: u32,
    /// How many of 100 repeat an earlier one.
    pub(crate) duplicates: u32,
    /// A second; none is as fast as answers come.
    pub(crate) rate: Option<f64>,
    /// When to stop, whatever is left.
    pub(crate) duration: Option<Duration>,
}

/// Signed requests in the order in which they go out. Shared by all connections.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Head and body of each.
    requests: Vec<Vec<u8>>,
    /// Which request goes when; longer than `requests` by the repetitions.
    order: Vec<u32>,
    next: AtomicUsize,
    pause: Option<Duration>,
    duration: Option<Duration>,
}

/// One request to send.
#[derive(Debug)]
pub(crate) struct Turn<'p> {
    /// Head and body.
    pub(crate) bytes: &'p [u8],
    /// When it is due, in an open loop.
    pub(crate) due: Option<Instant>,
}

impl Plan {
    /// Makes and signs all requests.
    pub(crate) fn prepare(target: &Target, secret: &WebhookSecret, events: &Events, load: Load, now: Duration) -> Self {
        let (order, news) = order(load.requests, load.duplicates);
        let signed_at = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let requests = (0..news)
            .map(|n| {
                let body = events.body(n);
                let signature = sign(secret, signed_at, body.as_bytes());
                let (host, path, length) = (&target.host, &target.path, body.len());
                let mut request = format!(
                    "POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n\
                     Accept: */*\r\nContent-Type: application/json; charset=utf-8\r\nStripe-Signature: {signature}\r\n\
                     Content-Length: {length}\r\n\r\n"
                )
                .into_bytes();
                request.reserve_exact(length);
                request.extend_from_slice(body.as_bytes());
                request
            })
            .collect();
        let pause = load.rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        Self { requests, order, next: AtomicUsize::new(0), pause, duration: load.duration }
    }

    /// Whoever asks gets the next request; none once all were given out or the time is over.
    pub(crate) fn turn(&self, start: Instant) -> Option<Turn<'_>> {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes = &self.requests[usize::try_from(*self.order.get(place)?).ok()?];
        let due = self.pause.map(|pause| start + pause.saturating_mul(u32::try_from(place).unwrap_or(u32::MAX)));
        let over = self.duration.is_some_and(|duration| due.unwrap_or_else(Instant::now) >= start + duration);
        (!over).then_some(Turn { bytes, due })
    }
}

/// Which event each request carries, and how many different ones there are.
fn order(requests: u32, duplicates: u32) -> (Vec<u32>, u32) {
    // SplitMix64: the same repetitions in every run.
    let mut state = 0_u64;
    let mut random = move |below: u32| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((bits ^ (bits >> 31)) % u64::from(below)).unwrap_or_default()
    };
    let mut news = 0;
    let order = (0..requests)
        .map(|_| {
            if news > 0 && duplicates > 0 && random(100) < duplicates {
                return random(news);
            }
            news += 1;
            news - 1
        })
        .collect();
    (order, news)
}

#[cfg(test)]
mod tests {
    use billing::{event::verify, signature::Tolerance};

    use super::*;

    #[test]
    fn repetitions_are_as_many_as_asked_for_and_of_earlier_events() {
        assert_eq!(order(3, 0), (vec![0, 1, 2], 3));
        assert_eq!(order(3, 100), (vec![0, 0, 0], 1));
        let (order, news) = order(10_000, 20);
        assert!((7_800..8_200).contains(&news), "{news}");
        let mut highest = 0;
        for event in order {
            assert!(event <= highest);
            highest = highest.max(event + 1);
        }
        assert_eq!(highest, news);
    }

    #[test]
    fn what_is_sent_verifies() {
        let now = Duration::from_secs(1_795_000_000);
        let target: Target = "http://127.0.0.1:8000/api/v1/stripe/webhook".parse().unwrap();
        let secret = WebhookSecret::parse("whsec_bench").unwrap();
        let events = Events::new(now, 10, 3, false);
        let load = Load { requests: 3, duplicates: 0, rate: None, duration: None };
        let plan = Plan::prepare(&target, &secret, &events, load, now);
        let request = String::from_utf8(plan.requests[2].clone()).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        assert_eq!(header("Content-Length:"), body.len().to_string());
        let signature = header("Stripe-Signature:").as_bytes();
        let at = chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let event = verify(body.as_bytes(), Some(signature), &[secret], at, Tolerance::default()).unwrap();
        assert_eq!(event.event_type(), "customer.subscription.updated");
        assert_eq!(event.customer(), Some("cus_Bench000000002"));
    }
}
