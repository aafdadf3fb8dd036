//! What a dry run of the reconciliation says, beside what is true: it must tell of every difference, and of nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value;

use crate::{compare::Difference, truth::Truth};

/// A dry run, held against the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// How it came out.
    pub outcome: String,
    /// What it found, by kind.
    pub by_kind: BTreeMap<String, u64>,
    /// What differs and was not told, as kind and id.
    pub untold: Vec<String>,
    /// What was told and does not differ, as kind and id.
    pub unfounded: Vec<String>,
    /// Subscriptions that have ended and of which only their customer or checkout could still tell whose they were: a dry run asks for neither.
    pub past_owners: u64,
}

type Told = BTreeSet<(String, String)>;

/// Holds what was told against what differs. Users that the host has not made by `now` are nobody.
pub(crate) fn judge(outcome: &str, drifts: &[Value], differences: &[Difference], truth: &Truth, now: i64) -> DryRun {
    let told: Told = drifts
        .iter()
        .map(|drift| {
            let about = drift["subscription_id"].as_str().or(drift["user_id"].as_str()).unwrap_or("nothing");
            (drift["kind"].as_str().unwrap_or("unknown").to_owned(), about.to_owned())
        })
        .collect();
    let mut by_kind = BTreeMap::new();
    for drift in drifts {
        *by_kind.entry(drift["kind"].as_str().unwrap_or("unknown").to_owned()).or_insert(0) += 1;
    }
    let (expected, optional, past_owners) = expect(differences, truth, now);
    let name = |(kind, id): &(String, String)| format!("{kind} {id}");
    DryRun {
        outcome: outcome.to_owned(),
        by_kind,
        untold: expected.difference(&told).map(name).collect(),
        unfounded: told.iter().filter(|one| !expected.contains(*one) && !optional.contains(*one)).map(name).collect(),
        past_owners,
    }
}

/// What must be told, what may be, and how many have ended without an owner.
fn expect(differences: &[Difference], truth: &Truth, now: i64) -> (Told, Told, u64) {
    let made: BTreeSet<&str> =
        truth.users.iter().filter(|user| user.made_at <= now).map(|user| user.id.as_str()).collect();
    let mut fields: HashMap<&str, Vec<&Difference>> = HashMap::new();
    for difference in differences.iter().filter(|difference| difference.of == "subscription") {
        fields.entry(difference.id.as_str()).or_default().push(difference);
    }
    let (mut expected, mut optional, mut past_owners) = (Told::new(), Told::new(), 0);
    // Users whose standing follows from what is told of a subscription of theirs.
    let mut explained: BTreeSet<&str> = BTreeSet::new();
    for subscription in &truth.subscriptions {
        let id = subscription.id.as_str();
        let mut expect = |kind: &str| {
            expected.insert((kind.to_owned(), id.to_owned()));
        };
        let owner = subscription.owner.as_deref().filter(|owner| made.contains(owner));
        if subscription.is_unmapped(&truth.plans) {
            expect("unmapped_price");
        }
        let found = fields.get(id).map(Vec::as_slice).unwrap_or_default();
        let missing = found.iter().any(|difference| difference.field == "known");
        // Whose it is cannot be seen from here: its customer, or its checkout, has to be asked.
        let lost = found.iter().any(|difference| difference.field == "user" && difference.here == "null");
        let living = !subscription.has_ended();
        if missing {
            expect("missing");
            if living && owner.is_some() {
                optional.insert(("unknown_user".to_owned(), id.to_owned()));
            }
        } else if found.iter().any(|difference| difference.field != "user" || difference.here != "null") {
            expect("differs");
        }
        if living && (owner.is_none() || lost) {
            expect("unknown_user");
        }
        past_owners += u64::from(!living && lost);
        if !found.is_empty() {
            explained.extend(owner);
        }
        // One that another has been taken for the owner of.
        for difference in found.iter().filter(|difference| difference.field == "user") {
            explained.extend(truth.users.iter().map(|user| user.id.as_str()).find(|user| *user == difference.here));
        }
    }
    let users = differences.iter().filter(|difference| difference.of == "user");
    for user in users.filter(|difference| !explained.contains(difference.id.as_str())) {
        expected.insert(("projection".to_owned(), user.id.clone()));
    }
    (expected, optional, past_owners)
}
