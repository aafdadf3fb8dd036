//! Stripe's webhook signature: who sent these bytes, and when.
//!
//! `Stripe-Signature: t=1492774577,v1=5257a8…,v0=6ffbb5…`. The signed text is `t` as it is written in the header, a full
//! stop and the raw body; the key is the whole secret, `whsec_` included; `v1` is HMAC-SHA256 in hex. While a secret is
//! being rolled the header holds one `v1` per secret. Source: docs.stripe.com/webhooks, "Verify webhook signatures
//! manually".
//!
//! # Where this differs from the official libraries
//!
//! They differ among themselves. Python 16.1 and Node 23.1 were run, Go and Ruby were read. Where a lenient reading
//! cannot make a forged body pass, this one is lenient; where two readings of one header are possible, it refuses.
//!
//! | header or body                                | Python    | Node     | Go        | Ruby      | here          |
//! |-----------------------------------------------|-----------|----------|-----------|-----------|---------------|
//! | `v1` before `t`                               | ok        | ok       | ok        | ok        | ok            |
//! | space after the comma                         | refused   | refused  | refused   | ok        | ok            |
//! | space after `=`                               | refused   | refused  | refused   | refused   | ok            |
//! | space before `t`                              | refused   | refused  | refused   | refused   | ok            |
//! | space or newline after the signature          | refused   | refused  | refused   | refused   | ok            |
//! | upper-case hex                                | refused   | refused  | ok        | refused   | ok            |
//! | a bad and a good `v1`, either order           | ok        | ok       | ok        | ok        | ok            |
//! | only `v0`                                     | refused   | refused  | refused   | refused   | no-v1         |
//! | other schemes beside `v1`                     | ok        | ok       | ok        | ok        | ok            |
//! | token without `=`, trailing comma             | ok        | ok       | refused   | ok        | ok            |
//! | no `t`                                        | refused   | refused  | refused   | refused   | malformed     |
//! | `t=`, `t=abc`                                 | refused   | refused  | refused   | refused   | malformed     |
//! | `t=123abc`, `t=123.5`                         | refused   | ok       | refused   | refused   | malformed     |
//! | two `t`                                       | first     | last     | last      | first     | malformed     |
//! | `v1=<signature>=`                             | ok        | ok       | refused   | refused   | mismatch      |
//! | `v1=` without a value                         | refused   | throws   | refused   | refused   | mismatch      |
//! | negative `t`                                  | too old   | too old  | too old   | too old   | expired       |
//! | an hour in the future                         | ok        | ok       | ok        | ok        | future        |
//! | 300 / 301 seconds old, tolerance 300          | ok / old  | ok / old | ok / old  | ok / old  | ok / expired  |
//! | tolerance 0                                   | no check  | no check | 300 or 0  | refused   | same second   |
//! | negative tolerance                            | refused   | no check | refused   | refused   | cannot be     |
//! | no header, empty header                       | refused   | refused  | refused   | refused   | missing       |
//! | empty body, signed                            | ok        | ok / no  | ok        | ok        | ok            |
//! | secret with a trailing newline                | mismatch  | mismatch | mismatch  | mismatch  | trimmed       |
//! | empty secret                                  | refused   | refused  | no check  | no check  | cannot be     |
//! | byte order mark in the body                   | ok        | mismatch | ok        | ok        | ok            |
//! | body that is not UTF-8                        | throws    | mismatch | ok        | ok        | ok            |
//! | over 8 KiB, or over 16 `v1`                   | ok        | ok       | ok        | ok        | malformed     |
//! | old and forged                                | mismatch  | mismatch | too old   | mismatch  | mismatch      |
//!
//! A body that passes here may still be refused as [not an event](crate::event::NotAnEvent).

use std::fmt;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Longest header that is looked at, in bytes. A rolled secret's header has some 180.
pub const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Most `v1` signatures that are tried. Stripe sends one per active secret.
pub const MAX_CANDIDATES: usize = 16;

const DIGEST_BYTES: usize = 32;

/// A signing secret of a webhook endpoint, `whsec_…`.
///
/// Holds HMAC's state after the key, not the text, so that a check does not set up the key again.
#[derive(Clone)]
pub struct WebhookSecret(Hmac<Sha256>);

/// Why a text is not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// With an empty key anybody could sign.
    #[error("a webhook secret must not be empty: copy the endpoint's signing secret (whsec_…) from Stripe")]
    Empty,
}

impl WebhookSecret {
    /// Takes a secret as Stripe shows it; ASCII white space around it (a secret file's last newline) is dropped.
    #[expect(clippy::missing_panics_doc, reason = "HMAC takes a key of any length")]
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let key = text.trim_ascii();
        if key.is_empty() {
            return Err(SecretError::Empty);
        }
        Ok(Self(Hmac::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length")))
    }

    fn mac(&self, timestamp: &[u8], body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(timestamp);
        mac.update(b".");
        mac.update(body);
        mac
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

/// How far the time of signing may be from now, in whole seconds; the bounds themselves are accepted.
///
/// Every delivery attempt is signed anew, so a retry that comes days later passes too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance {
    /// Greatest age, in seconds. Stripe's libraries use 300.
    pub past_seconds: u32,
    /// Greatest lead of Stripe's clock over ours, in seconds. Stripe's libraries do not bound it.
    pub future_seconds: u32,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { past_seconds: 300, future_seconds: 300 }
    }
}

/// Why a request is not believed to come from Stripe. Holds nothing of the header, the body or a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no header, or an empty one.
    #[error(
        "the request has no Stripe-Signature header: only Stripe may call this address; if Stripe did, let the proxy \
         in front pass the header on"
    )]
    Missing,
    /// The header cannot be read in exactly one way.
    #[error("the Stripe-Signature header is malformed ({0}): let no proxy rewrite it")]
    Malformed(&'static str),
    /// Only `v0` or unknown schemes, which Stripe says to ignore.
    #[error("the Stripe-Signature header has no v1 signature: other schemes do not count, send v1")]
    NoV1,
    /// No `v1` fits the body under any secret.
    #[error(
        "no v1 signature fits the body: check that STRIPE_WEBHOOK_SECRET is the signing secret of this very endpoint \
         (test and live mode have different ones) and that no proxy changes the body"
    )]
    Mismatch,
    /// Truly signed, but too long ago.
    #[error(
        "the signature is {age_seconds} s old, more than the tolerated {tolerated_seconds} s: check this machine's \
         clock (NTP); if it is right, the request is a replay"
    )]
    Expired {
        /// Now minus the time of signing, in seconds.
        age_seconds: i64,
        /// The tolerance, in seconds.
        tolerated_seconds: u32,
    },
    /// Truly signed, but in the future.
    #[error(
        "the signature was made {ahead_seconds} s in the future, more than the tolerated {tolerated_seconds} s: check \
         this machine's clock (NTP)"
    )]
    Future {
        /// The time of signing minus now, in seconds.
        ahead_seconds: i64,
        /// The tolerance, in seconds.
        tolerated_seconds: u32,
    },
}

impl SignatureError {
    /// One of a closed set of words, for a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "signature-missing",
            Self::Malformed(_) => "signature-malformed",
            Self::NoV1 => "signature-no-v1",
            Self::Mismatch => "signature-mismatch",
            Self::Expired { .. } => "signature-expired",
            Self::Future { .. } => "signature-future",
        }
    }
}

/// What the header says; nothing of it is believed yet.
struct Claimed<'h> {
    /// As it is written, for that is what was signed.
    timestamp: &'h [u8],
    seconds: i64,
    candidates: [[u8; DIGEST_BYTES]; MAX_CANDIDATES],
    count: usize,
}

impl<'h> Claimed<'h> {
    fn parse(header: &'h [u8]) -> Result<Self, SignatureError> {
        if header.len() > MAX_HEADER_BYTES {
            return Err(SignatureError::Malformed("longer than 8 KiB"));
        }
        let mut timestamp = None;
        let mut candidates = [[0; DIGEST_BYTES]; MAX_CANDIDATES];
        let mut count = 0;
        let mut has_v1 = false;
        for token in header.split(|&byte| byte == b',') {
            let Some(equals) = token.iter().position(|&byte| byte == b'=') else { continue };
            let value = token[equals + 1..].trim_ascii();
            match token[..equals].trim_ascii() {
                b"t" if timestamp.is_some() => return Err(SignatureError::Malformed("more than one t")),
                b"t" => timestamp = Some(value),
                b"v1" => {
                    has_v1 = true;
                    let mut digest = [0; DIGEST_BYTES];
                    if hex::decode_to_slice(value, &mut digest).is_err() {
                        continue;
                    }
                    let Some(slot) = candidates.get_mut(count) else {
                        return Err(SignatureError::Malformed("more than 16 v1"));
                    };
                    *slot = digest;
                    count += 1;
                }
                _ => {}
            }
        }
        let timestamp = timestamp.ok_or(SignatureError::Malformed("no t"))?;
        let seconds = str::from_utf8(timestamp)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(SignatureError::Malformed("t is not a whole number"))?;
        if !has_v1 {
            return Err(SignatureError::NoV1);
        }
        Ok(Self { timestamp, seconds, candidates, count })
    }

    fn fits(&self, body: &[u8], secret: &WebhookSecret) -> bool {
        if self.count == 0 {
            return false;
        }
        let mac = secret.mac(self.timestamp, body);
        // `verify_slice` compares in constant time; a copy of the state is cheaper than the body again.
        self.candidates[..self.count].iter().any(|candidate| mac.clone().verify_slice(candidate).is_ok())
    }
}

/// Checks that one of `secrets` signed `body`, and that it did so within `tolerance` of `now`.
///
/// `header` is the value of `Stripe-Signature`. Gives the time of signing. The signature is checked before the time: a
/// forged header is a mismatch whatever its time, so only a true one is ever called expired. Without secrets nothing
/// fits.
pub fn check(
    header: Option<&[u8]>,
    body: &[u8],
    secrets: &[WebhookSecret],
    now: DateTime<Utc>,
    tolerance: Tolerance,
) -> Result<i64, SignatureError> {
    let header = header.map(<[u8]>::trim_ascii).filter(|header| !header.is_empty()).ok_or(SignatureError::Missing)?;
    let claimed = Claimed::parse(header)?;
    if !secrets.iter().any(|secret| claimed.fits(body, secret)) {
        return Err(SignatureError::Mismatch);
    }
    let age_seconds = now.timestamp().saturating_sub(claimed.seconds);
    if age_seconds > i64::from(tolerance.past_seconds) {
        return Err(SignatureError::Expired { age_seconds, tolerated_seconds: tolerance.past_seconds });
    }
    let ahead_seconds = age_seconds.saturating_neg();
    if ahead_seconds > i64::from(tolerance.future_seconds) {
        return Err(SignatureError::Future { ahead_seconds, tolerated_seconds: tolerance.future_seconds });
    }
    Ok(claimed.seconds)
}

/// The header value Stripe would send for `body`, signed at `at` (seconds since 1970).
pub fn sign(secret: &WebhookSecret, at: i64, body: &[u8]) -> String {
    sign_rolling([secret], at, body)
}

/// As [`sign`], with one `v1` per secret, as Stripe does while a secret is being rolled.
pub fn sign_rolling<'s>(secrets: impl IntoIterator<Item = &'s WebhookSecret>, at: i64, body: &[u8]) -> String {
    let timestamp = at.to_string();
    let mut header = format!("t={timestamp}");
    for secret in secrets {
        header.push_str(",v1=");
        header.push_str(&hex::encode(secret.mac(timestamp.as_bytes(), body).finalize().into_bytes()));
    }
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: i64 = 1_492_774_577;
    const BODY: &[u8] = b"{\n  \"id\": \"evt_test_webhook\",\n  \"object\": \"event\"\n}";
    const SIGNATURE: &str = "c2f890decbc5ede7c5060bb9a6d31e0626a4342bacb9aeae2adb1bcea72f9812";
    const ROLLED_SIGNATURE: &str = "58a4723fa0114d50bc17d58cedd6d02c4769c2b1ca4bf2ebfcb369803f6d94a3";

    fn secret() -> WebhookSecret {
        WebhookSecret::parse("whsec_test_secret").unwrap()
    }

    fn rolled() -> WebhookSecret {
        WebhookSecret::parse("whsec_test_secret_rolled_key").unwrap()
    }

    fn clock(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 999_000_000).unwrap()
    }

    fn check_at(header: &str, body: &[u8], seconds: i64) -> Result<i64, SignatureError> {
        check(Some(header.as_bytes()), body, &[secret()], clock(seconds), Tolerance::default())
    }

    fn outcome(header: &str) -> &'static str {
        check_at(header, BODY, AT).map_or_else(|error| error.reason(), |_| "ok")
    }

    #[test]
    fn stripes_own_vectors_are_reproduced() {
        assert_eq!(sign(&secret(), AT, BODY), format!("t={AT},v1={SIGNATURE}"));
        assert_eq!(sign(&rolled(), AT, BODY), format!("t={AT},v1={ROLLED_SIGNATURE}"));
        assert_eq!(
            sign_rolling([&rolled(), &secret()], AT, BODY),
            format!("t={AT},v1={ROLLED_SIGNATURE},v1={SIGNATURE}")
        );
        assert_eq!(check_at(&sign(&secret(), AT, BODY), BODY, AT), Ok(AT));
    }

    #[test]
    fn every_row_of_the_corner_case_table_has_the_outcome_it_states() {
        let good = SIGNATURE;
        let old = AT - 100_000;
        let negative = sign(&secret(), -5, BODY);
        for (header, expected) in [
            (format!("v1={good},t={AT}"), "ok"),
            (format!("t={AT}, v1={good}"), "ok"),
            (format!("t= {AT},v1= {good}"), "ok"),
            (format!(" t={AT},v1={good}"), "ok"),
            (format!("t={AT},v1={good} "), "ok"),
            (format!("t={AT},v1={good}\r\n"), "ok"),
            (format!("t={AT},v1={}", good.to_uppercase()), "ok"),
            (format!("t={AT},v1=bad_signature,v1={good}"), "ok"),
            (format!("t={AT},v1={good},v1=bad_signature"), "ok"),
            (format!("t={AT},v1={ROLLED_SIGNATURE},v1={good}"), "ok"),
            (format!("t={AT},v1={good},v1={ROLLED_SIGNATURE}"), "ok"),
            (format!("t={AT},v1={ROLLED_SIGNATURE}"), "signature-mismatch"),
            (format!("t={AT},v0={good}"), "signature-no-v1"),
            (format!("t={AT},V1={good}"), "signature-no-v1"),
            (format!("t={AT}"), "signature-no-v1"),
            (format!("t={AT},v1={good},v0=6ffbb5,foo=bar,v2=1"), "ok"),
            (format!("t={AT},v1={good},garbage"), "ok"),
            (format!("t={AT},v1={good},"), "ok"),
            (format!(",,t={AT},v1={good}"), "ok"),
            (format!("v1={good}"), "signature-malformed"),
            (format!("t=,v1={good}"), "signature-malformed"),
            (format!("t=abc,v1={good}"), "signature-malformed"),
            (format!("t={AT}abc,v1={good}"), "signature-malformed"),
            (format!("t={AT}.5,v1={good}"), "signature-malformed"),
            (format!("t=99999999999999999999,v1={good}"), "signature-malformed"),
            (format!("t={AT},t={AT},v1={good}"), "signature-malformed"),
            (format!("t=abc,t={AT},v1={good}"), "signature-malformed"),
            (format!("t={AT},v1={good}="), "signature-mismatch"),
            (format!("t={AT},v1={good}00"), "signature-mismatch"),
            (format!("t={AT},v1="), "signature-mismatch"),
            (format!("t={AT},v1=deadbeef"), "signature-mismatch"),
            (format!("t={},v1={good}", AT + 1), "signature-mismatch"),
            (format!("t=0{AT},v1={good}"), "signature-mismatch"),
            (format!("t={old},v1={good}"), "signature-mismatch"),
            (format!("t={},v1={good}", i64::MIN), "signature-mismatch"),
            (negative, "signature-expired"),
            (sign(&secret(), i64::MIN, BODY), "signature-expired"),
            (sign(&secret(), i64::MAX, BODY), "signature-future"),
            (sign(&secret(), AT + 3600, BODY), "signature-future"),
            (sign(&secret(), old, BODY), "signature-expired"),
            (String::new(), "signature-missing"),
            (" \t".into(), "signature-missing"),
            ("v1,t=1".into(), "signature-no-v1"),
            ("t=".into(), "signature-malformed"),
            ("garbage".into(), "signature-malformed"),
        ] {
            assert_eq!(outcome(&header), expected, "{header:?}");
        }
        let missing = check(None, BODY, &[secret()], clock(AT), Tolerance::default());
        assert_eq!(missing, Err(SignatureError::Missing));
    }

    #[test]
    fn the_time_is_signed_as_it_is_written() {
        let mac = secret().mac(b"01492774577", BODY);
        let header = format!("t=01492774577,v1={}", hex::encode(mac.finalize().into_bytes()));
        assert_eq!(outcome(&header), "ok");
    }

    #[test]
    fn any_body_can_be_signed() {
        for body in [&b""[..], b"\xef\xbb\xbf{}", b"\xff\xfe\x00"] {
            let header = sign(&secret(), AT, body);
            assert_eq!(check_at(&header, body, AT), Ok(AT));
            assert_eq!(check_at(&header, b"other", AT), Err(SignatureError::Mismatch));
        }
    }

    #[test]
    fn the_bounds_of_the_tolerance_are_inside_it() {
        let header = sign(&secret(), AT, BODY);
        assert_eq!(check_at(&header, BODY, AT + 300), Ok(AT));
        let expired = SignatureError::Expired { age_seconds: 301, tolerated_seconds: 300 };
        assert_eq!(check_at(&header, BODY, AT + 301), Err(expired));
        assert_eq!(check_at(&header, BODY, AT - 300), Ok(AT));
        let future = SignatureError::Future { ahead_seconds: 301, tolerated_seconds: 300 };
        assert_eq!(check_at(&header, BODY, AT - 301), Err(future));
    }

    #[test]
    fn a_tolerance_of_zero_means_this_very_second() {
        let header = sign(&secret(), AT, BODY);
        let zero = Tolerance { past_seconds: 0, future_seconds: 0 };
        let at = |seconds| check(Some(header.as_bytes()), BODY, &[secret()], clock(seconds), zero);
        assert!(at(AT).is_ok());
        assert!(at(AT + 1).is_err());
        assert!(at(AT - 1).is_err());
    }

    #[test]
    fn any_of_several_secrets_will_do_and_none_will_not() {
        let both = sign_rolling([&rolled(), &secret()], AT, BODY);
        let one = sign(&secret(), AT, BODY);
        let checked = |header: &str, secrets: &[_]| {
            check(Some(header.as_bytes()), BODY, secrets, clock(AT), Tolerance::default())
        };
        assert!(checked(&both, &[secret()]).is_ok());
        assert!(checked(&both, &[rolled()]).is_ok());
        assert!(checked(&one, &[rolled(), secret()]).is_ok());
        assert!(checked(&one, &[secret(), rolled()]).is_ok());
        assert_eq!(checked(&one, &[rolled()]), Err(SignatureError::Mismatch));
        assert_eq!(checked(&one, &[]), Err(SignatureError::Mismatch));
    }

    #[test]
    fn a_secret_is_trimmed_never_empty_and_never_shown() {
        let trimmed = WebhookSecret::parse(" whsec_test_secret\r\n").unwrap();
        assert_eq!(sign(&trimmed, AT, BODY), sign(&secret(), AT, BODY));
        for empty in ["", " \n"] {
            assert_eq!(WebhookSecret::parse(empty).err(), Some(SecretError::Empty));
        }
        assert_eq!(format!("{:?}", secret()), "WebhookSecret(…)");
    }

    #[test]
    fn the_work_on_a_hostile_header_is_bounded() {
        let v1 = |count: usize| format!("t={AT}{}", format!(",v1={ROLLED_SIGNATURE}").repeat(count));
        assert_eq!(outcome(&v1(16)), "signature-mismatch");
        assert_eq!(outcome(&v1(17)), "signature-malformed");
        assert_eq!(outcome(&format!("{},v1={SIGNATURE}", v1(15))), "ok");
        assert_eq!(outcome(&format!("t={AT},v1={SIGNATURE}{}", ",x=1".repeat(2500))), "signature-malformed");
    }

    #[test]
    fn a_header_need_not_be_text() {
        let mut header = b"\xff\xfe=\xff,".to_vec();
        header.extend(sign(&secret(), AT, BODY).into_bytes());
        assert!(check(Some(&header), BODY, &[secret()], clock(AT), Tolerance::default()).is_ok());
        let header = b"t=\xff,v1=\xff";
        let refused = check(Some(header), BODY, &[secret()], clock(AT), Tolerance::default());
        assert_eq!(refused.map_err(|error| error.reason()), Err("signature-malformed"));
    }

    proptest! {
        #[test]
        fn no_header_panics_and_none_but_a_signed_one_passes(header: Vec<u8>, body: Vec<u8>, now: u32) {
            prop_assert!(check(Some(&header), &body, &[secret()], clock(now.into()), Tolerance::default()).is_err());
        }

        #[test]
        fn no_likely_header_panics(
            header in "((t|v1|v0| v1 |)(=| = |)(-?[0-9]{0,20}|[0-9a-fA-F]{64}|.{0,3})(,|, |)){0,20}"
        ) {
            prop_assert!(check_at(&header, BODY, AT).is_err());
        }

        #[test]
        fn what_is_signed_passes(
            at in -62_000_000_000_i64..200_000_000_000,
            off in -300_i64..=300,
            body: Vec<u8>,
            key in "[!-~]{1,200}",
            other in "[!-~]{1,9}",
        ) {
            let (key, other) = (WebhookSecret::parse(&key).unwrap(), WebhookSecret::parse(&other).unwrap());
            let header = sign_rolling([&other, &key], at, &body);
            let checked = check(Some(header.as_bytes()), &body, &[key], clock(at + off), Tolerance::default());
            prop_assert_eq!(checked, Ok(at));
        }
    }
}
