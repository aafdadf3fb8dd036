//! Whether the key may read what is needed, whose it is, and whether Stripe's clock and ours agree.

use chrono::{TimeDelta, Utc};
use entity::{
    Time,
    ids::{CustomerId, InvoiceId, SubscriptionId},
};
use futures::future::join_all;

use super::{Item, delivery::delivery, plans::plans};
use crate::{
    catalog::Catalog,
    endpoint::Expected,
    events::event_types,
    reconcile,
    stripe::{Collection, Lane, Resource, Stripe, StripeError},
};

const AREA: &str = "stripe";
/// Clocks that are further apart are worth a look: NTP keeps them within a second.
const APART: TimeDelta = TimeDelta::seconds(5);
/// Beyond the tolerance of signatures every webhook is refused, and this is near it.
const TOO_FAR: TimeDelta = TimeDelta::seconds(240);

/// What Stripe said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What was found.
    pub items: Vec<Item>,
    /// Whose the key is; none where it may not tell, or where it does not work.
    pub account: Option<String>,
    /// Whether the key works.
    pub works: bool,
}

/// Something to read, and who needs it.
struct Question {
    what: &'static str,
    /// False where only some events need it.
    always: bool,
    ask: Ask,
}

enum Ask {
    List(Collection),
    /// There is no such object; whoever may not read its kind is told that instead.
    Get(Resource),
}

fn questions(now: Time) -> Vec<Question> {
    let list = |what, collection| Some(Question { what, always: true, ask: Ask::List(collection) });
    let get = |what, always, resource: Option<Resource>| {
        resource.map(|resource| Question { what, always, ask: Ask::Get(resource) })
    };
    let events = Collection::Events {
        types: event_types().take(1).collect(),
        created_gte: now - TimeDelta::minutes(1),
        created_lte: now,
    };
    [
        list("subscriptions", Collection::Subscriptions { customer: None }),
        get("subscriptions", true, SubscriptionId::parse("sub_trueup_check").ok().map(Resource::Subscription)),
        get("customers", true, CustomerId::parse("cus_trueup_check").ok().map(Resource::Customer)),
        get("checkout sessions", true, Some(Resource::CheckoutSession("cs_trueup_check".to_owned()))),
        get("invoices", true, InvoiceId::parse("in_trueup_check").ok().map(Resource::Invoice)),
        list("events", events),
        get("charges", false, Some(Resource::Charge("ch_trueup_check".to_owned()))),
        get("disputes", false, Some(Resource::Dispute("dp_trueup_check".to_owned()))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Asks Stripe for a little of everything that is needed, side by side.
pub async fn stripe(stripe: &dyn Stripe, catalog: &Catalog, expected: &Expected) -> Asked {
    let account = match reconcile::account_of_key(stripe).await {
        Ok(account) => account,
        // Without Stripe, or with a wrong key, everything else would say the same.
        Err(error) => return Asked { items: vec![of_error(AREA, &error)], account: None, works: false },
    };
    let questions = questions(Utc::now());
    let answers = join_all(questions.iter().map(|question| answer(stripe, question)));
    let (answers, delivery, plans) = tokio::join!(answers, delivery(stripe, expected), plans(stripe, catalog));
    let mut items = Vec::new();
    let mut readable: Vec<&str> = Vec::new();
    let mut skew = None;
    for (question, (answer, apart)) in questions.iter().zip(answers) {
        skew = skew.or(apart);
        match answer {
            Ok(()) | Err(StripeError::Missing { .. }) => readable.push(question.what),
            Err(error @ StripeError::Permission { .. }) if !question.always => {
                let Item { what, .. } = of_error(AREA, &error);
                let remedy = format!(
                    "give the restricted key the permission to read {}: it is needed where Stripe sends thin events of refunds and disputes",
                    question.what
                );
                items.push(Item::warn(AREA, what, remedy));
            }
            Err(error) => items.push(of_error(AREA, &error)),
        }
    }
    readable.dedup();
    if !readable.is_empty() {
        items.push(Item::ok(AREA, format!("the key may read {}", readable.join(", "))));
    }
    items.extend(skew.map(clock));
    items.extend(delivery);
    items.extend(plans);
    Asked { items: once(items), account, works: true }
}

/// Without what was found twice: two questions of one kind are refused alike.
fn once(items: Vec<Item>) -> Vec<Item> {
    let mut kept: Vec<Item> = Vec::new();
    for item in items {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

/// The answer, and how far Stripe's clock is ahead of ours where the answer tells.
async fn answer(stripe: &dyn Stripe, question: &Question) -> (Result<(), StripeError>, Option<TimeDelta>) {
    let before = Utc::now();
    let told = match &question.ask {
        Ask::List(collection) => stripe.list(collection, None, Lane::Live).await.map(|page| page.at),
        Ask::Get(resource) => stripe.get(resource, Lane::Live).await.map(|fetched| fetched.at),
    };
    match told {
        Ok(at) => (Ok(()), Some(apart(at, before, Utc::now()))),
        Err(error) => (Err(error), None),
    }
}

/// How far a clock of whole seconds that showed `at` somewhere between our `before` and `after` is ahead of ours; nothing where it may be right.
fn apart(at: Time, before: Time, after: Time) -> TimeDelta {
    let (earliest, latest) = (before - TimeDelta::seconds(1), after + TimeDelta::seconds(1));
    if at < earliest {
        at - earliest
    } else if at > latest {
        at - latest
    } else {
        TimeDelta::zero()
    }
}

/// What a skew means.
fn clock(skew: TimeDelta) -> Item {
    const AREA: &str = "clock";
    const REMEDY: &str =
        "let this machine's clock be set by NTP: webhooks are refused where the clocks are more than 300 seconds apart";
    let seconds = skew.num_seconds().abs();
    let side = if skew > TimeDelta::zero() { "behind" } else { "ahead of" };
    let what = format!("this machine's clock is {seconds} s {side} Stripe's");
    if skew.abs() >= TOO_FAR {
        Item::bad(AREA, what, REMEDY)
    } else if skew.abs() >= APART {
        Item::warn(AREA, what, REMEDY)
    } else {
        Item::ok(AREA, format!("this machine's clock and Stripe's agree within {}", spell_seconds(seconds + 1)))
    }
}

fn spell_seconds(seconds: i64) -> String {
    if seconds == 1 { "a second".to_owned() } else { format!("{seconds} s") }
}

pub(super) fn of_error(area: &'static str, error: &StripeError) -> Item {
    let told = error.to_string();
    // Its texts say first what is wrong, and last what to do.
    let (what, remedy) = told.rsplit_once("; ").unwrap_or((&told, "look at what Stripe says"));
    match error {
        StripeError::Unavailable { .. } => Item::bad(
            area,
            what,
            "try again; where it stays so, look at this machine's way to the internet and at status.stripe.com",
        ),
        _ => Item::bad(area, what, remedy),
    }
}

/// Whose the key is, beside the account against which everything was reconciled last.
pub fn account(account: Option<&str>, remembered: Option<&str>, livemode: Option<bool>) -> Item {
    let mode = match livemode {
        Some(true) => "live mode",
        Some(false) => "test mode",
        None => "whatever mode it shows",
    };
    match (account, remembered) {
        (Some(account), Some(last)) if account != last => Item::bad(
            AREA,
            format!("the key is of the account {account}; what is stored was reconciled with {last}"),
            format!(
                "set STRIPE_SECRET_KEY to a key of {last}, or, if the account is new, run `trueup reconcile --accept-account`"
            ),
        ),
        (Some(account), _) => Item::ok(AREA, format!("the key works: account {account}, {mode}")),
        (None, _) => Item::ok(AREA, format!("the key works, {mode}; it may not tell its account")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    #[test]
    fn clocks_are_apart_only_by_what_the_way_and_whole_seconds_cannot_explain() {
        let at = |millis: i64| Time::from_timestamp_millis(millis).expect("a moment");
        let (before, after) = (at(100_400), at(103_600));
        for explained in [100_000, 99_400, 103_000, 104_000] {
            assert_eq!(apart(at(explained), before, after), TimeDelta::zero(), "{explained}");
        }
        assert_eq!(apart(at(90_000), before, after), TimeDelta::milliseconds(-9400));
        assert_eq!(apart(at(704_600), before, after), TimeDelta::seconds(600));
    }

    #[test]
    fn a_clock_that_would_refuse_webhooks_is_bad_and_one_on_its_way_there_a_warning() {
        let of = |seconds| clock(TimeDelta::seconds(seconds)).state;
        assert_eq!([0, 4, -4].map(of), [State::Ok; 3]);
        assert_eq!([5, -30, 239].map(of), [State::Warn; 3]);
        assert_eq!([240, -600].map(of), [State::Bad; 2]);
        assert!(clock(TimeDelta::seconds(600)).what.contains("600 s behind Stripe's"));
    }
}
