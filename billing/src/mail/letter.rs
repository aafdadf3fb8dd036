//! What an e-mail tells, taken from the facts as they are when it is sent; or that its reason is gone.

use entity::{
    Time,
    enums::{EmailKind, InvoiceStatus, SubscriptionStatus},
    ids::{InvoiceId, SubscriptionId, UserId},
};
use serde::{Deserialize, Serialize};

use super::money;
use crate::{
    catalog::Catalog,
    facts::{Invoice, Outcome, Subscription},
    world::World,
};

/// What templates can name. Everything but `product` may be absent, and is `none` then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Letter {
    /// The host's product.
    pub product: String,
    /// The user's name.
    pub name: Option<String>,
    /// The plan's tier.
    pub plan: Option<String>,
    /// What is due, for example `19.00 USD`.
    pub amount: Option<String>,
    /// The same in minor units.
    pub amount_minor: Option<i64>,
    /// Three-letter code, upper case.
    pub currency: Option<String>,
    /// As printed on the invoice.
    pub number: Option<String>,
    /// Payment attempts so far.
    pub attempt: Option<i64>,
    /// The day on which Stripe tries again.
    pub next_attempt: Option<String>,
    /// Stripe's page on which to pay or confirm; always `https`.
    pub link: Option<String>,
    /// Last day of the subscription's period.
    pub period_end: Option<String>,
    /// The day on which the trial ends.
    pub trial_end: Option<String>,
}

impl Letter {
    /// Every name, for messages.
    pub(crate) const NAMES: [&'static str; 12] = [
        "product",
        "name",
        "plan",
        "amount",
        "amount_minor",
        "currency",
        "number",
        "attempt",
        "next_attempt",
        "link",
        "period_end",
        "trial_end",
    ];

    /// Letters to try templates with: one where all is known, one where nothing is, and for each thing one without it and one with it alone.
    pub(crate) fn samples() -> Vec<Self> {
        let full = Self {
            product: "Example & Sons".to_owned(),
            name: Some("Ada".to_owned()),
            plan: Some("pro".to_owned()),
            amount: Some(money::amount(1900, "usd")),
            amount_minor: Some(1900),
            currency: Some("USD".to_owned()),
            number: Some("ADA-0001".to_owned()),
            attempt: Some(1),
            next_attempt: Some(day(Time::UNIX_EPOCH)),
            link: Some("https://invoice.stripe.com/i/acct_sample/test_sample?s=ap".to_owned()),
            period_end: Some(day(Time::UNIX_EPOCH)),
            trial_end: Some(day(Time::UNIX_EPOCH)),
        };
        let empty = Self { product: full.product.clone(), ..Self::default() };
        let mut samples = vec![full.clone(), empty.clone()];
        let copies: [fn(&Self, &mut Self); 9] = [
            |from, to| to.name.clone_from(&from.name),
            |from, to| to.plan.clone_from(&from.plan),
            |from, to| {
                to.amount.clone_from(&from.amount);
                to.amount_minor = from.amount_minor;
                to.currency.clone_from(&from.currency);
            },
            |from, to| to.number.clone_from(&from.number),
            |from, to| to.attempt = from.attempt,
            |from, to| to.next_attempt.clone_from(&from.next_attempt),
            |from, to| to.link.clone_from(&from.link),
            |from, to| to.period_end.clone_from(&from.period_end),
            |from, to| to.trial_end.clone_from(&from.trial_end),
        ];
        for copy in copies {
            for (from, to) in [(&full, &empty), (&empty, &full)] {
                let mut sample = to.clone();
                copy(from, &mut sample);
                samples.push(sample);
            }
        }
        samples
    }
}

/// For example `24 November 2026`; in UTC, as everything here.
fn day(at: Time) -> String {
    at.format("%-d %B %Y").to_string()
}

/// What was known when the e-mail was queued (`apply.rs` writes it). Lenient: an e-mail is not lost for a field.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Data {
    pub(crate) invoice_id: Option<InvoiceId>,
    pub(crate) subscription_id: Option<SubscriptionId>,
    trial_end: Option<Time>,
    number: Option<String>,
    amount_due: Option<i64>,
    currency: Option<String>,
    attempt: Option<i64>,
    next_payment_attempt: Option<Time>,
    hosted_invoice_url: Option<String>,
}

/// Who and what, beside the facts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) user: UserId,
    pub(crate) kind: EmailKind,
    pub(crate) data: &'a Data,
    pub(crate) product: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) now: Time,
}

/// The letter as the facts are now.
///
/// # Errors
/// Why there is no reason for it any more.
pub(crate) fn write(about: About<'_>, world: &World, catalog: &Catalog) -> Result<Letter, &'static str> {
    match about.kind {
        EmailKind::TrialEnding => trial_ending(about, world, catalog),
        EmailKind::PaymentFailed | EmailKind::PaymentActionRequired => payment(about, world, catalog),
    }
}

fn payment(about: About<'_>, world: &World, catalog: &Catalog) -> Result<Letter, &'static str> {
    let data = about.data;
    let invoice = data.invoice_id.as_ref().and_then(|id| world.invoice(id));
    if let Some(invoice) = invoice {
        if matches!(invoice.outcome(), Outcome::Paid(_)) {
            return Err("the invoice was paid meanwhile");
        }
        if invoice.status == Some(InvoiceStatus::Void) {
            return Err("the invoice was voided meanwhile");
        }
        if invoice.owner.is_some_and(|owner| owner != about.user) {
            return Err("the invoice turned out to be another user's");
        }
        if invoice.snapshot.attempt_count.zip(data.attempt).is_some_and(|(now, then)| now > then) {
            return Err("the payment was tried again meanwhile; what came of that is told by itself");
        }
    }
    let subscription = invoice.and_then(|invoice| invoice.subscription.as_ref());
    let subscription = subscription.and_then(|id| world.subscription(id));
    // What the invoice says now, else what it said when the e-mail was queued.
    let now = invoice.map(|invoice: &Invoice| &invoice.snapshot);
    let minor = now.and_then(|now| now.amount_due).or(data.amount_due);
    let currency = now.and_then(|now| now.currency.as_deref()).or(data.currency.as_deref());
    let link = now.and_then(|now| now.hosted_invoice_url.as_deref()).or(data.hosted_invoice_url.as_deref());
    let next = now.and_then(|now| now.next_payment_attempt).or(data.next_payment_attempt);
    let number = now.and_then(|now| now.number.as_deref()).or(data.number.as_deref());
    Ok(Letter {
        amount: minor.zip(currency).map(|(minor, currency)| money::amount(minor, currency)),
        amount_minor: minor,
        currency: currency.map(str::to_ascii_uppercase),
        number: number.map(str::to_owned),
        attempt: data.attempt,
        next_attempt: next.filter(|next| *next > about.now).map(day),
        link: link.filter(|link| is_safe(link)).map(str::to_owned),
        ..common(about, subscription, world, catalog)
    })
}

fn trial_ending(about: About<'_>, world: &World, catalog: &Catalog) -> Result<Letter, &'static str> {
    let data = about.data;
    let subscription = data.subscription_id.as_ref().and_then(|id| world.subscription(id));
    let Some(subscription) = subscription else { return Err("the subscription is gone") };
    if subscription.owner.is_some_and(|owner| owner != about.user) {
        return Err("the subscription turned out to be another user's");
    }
    if world.standing(subscription).status() != SubscriptionStatus::Trialing {
        return Err("the trial is over: converted or cancelled");
    }
    let snapshot = &subscription.snapshot;
    let Some(end) = snapshot.trial_end.filter(|end| *end > about.now) else { return Err("the trial is over") };
    if snapshot.cancel_at_period_end || snapshot.cancel_at.is_some_and(|cancel| cancel <= end) {
        return Err("the subscription was cancelled: nothing follows the trial");
    }
    if data.trial_end.is_some_and(|then| then.timestamp() != end.timestamp()) {
        return Err("the trial's end was moved; Stripe tells of the new one by itself");
    }
    Ok(Letter { trial_end: Some(day(end)), ..common(about, Some(subscription), world, catalog) })
}

fn common(about: About<'_>, subscription: Option<&Subscription>, world: &World, catalog: &Catalog) -> Letter {
    let plan = subscription.and_then(|subscription| world.standing(subscription).deciding_item(catalog).1);
    Letter {
        product: about.product.to_owned(),
        name: about.name.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned),
        plan: plan.map(|plan| catalog.plan(plan).tier.clone()),
        period_end: subscription.and_then(|subscription| subscription.snapshot.period_end).map(day),
        ..Letter::default()
    }
}

/// True for a link that may stand in an e-mail.
fn is_safe(link: &str) -> bool {
    let rest = link.get(..8).filter(|scheme| scheme.eq_ignore_ascii_case("https://")).map(|_| &link[8..]);
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_letter_is_told_and_no_other() {
        let letter = serde_json::to_value(Letter::default()).expect("a letter");
        let mut names: Vec<_> = letter.as_object().expect("an object").keys().map(String::as_str).collect();
        let mut told = Letter::NAMES.to_vec();
        names.sort_unstable();
        told.sort_unstable();
        assert_eq!(names, told);
    }

    #[test]
    fn only_an_https_link_goes_out() {
        assert!(is_safe("https://invoice.stripe.com/i/acct_1/test_1?s=ap"));
        assert!(is_safe("HTTPS://invoice.stripe.com"));
        for link in
            ["http://invoice.stripe.com", "javascript:alert(1)", "https://", "https://a b", "https://a\"b", "", "ä"]
        {
            assert!(!is_safe(link), "{link}");
        }
    }

    #[test]
    fn a_day_is_written_out() {
        assert_eq!(day(Time::from_timestamp(1_795_510_800, 0).expect("a moment")), "24 November 2026");
    }
}
