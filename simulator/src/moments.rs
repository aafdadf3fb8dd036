//! What webhooks alone leave open: Stripe's clock has whole seconds, so that of two contents of one subscription in one second nobody can tell
//! which came last. Found out here from the events themselves, beside what the server says of it.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use crate::event::Event;

/// How far along its life, the second, and whether it is more than the first word. Stripe never goes back along the first.
type Moment = (u8, i64, bool);

/// The newest moment of each subscription, with every content that was told of it.
#[derive(Debug, Default)]
pub(crate) struct Moments(HashMap<String, (Moment, BTreeSet<String>)>);

impl Moments {
    /// Takes note of an event that arrives.
    pub(crate) fn note(&mut self, event: &Event) {
        let Some(id) = &event.subscription else { return };
        if !event.event_type.starts_with("customer.subscription.") {
            return;
        }
        let Ok(mut body) = serde_json::from_str::<Value>(&event.body()) else { return };
        let mut object = body["data"]["object"].take();
        if let Some(object) = object.as_object_mut() {
            // It says nothing of the subscription itself.
            object.remove("latest_invoice");
        }
        let rank = match object["status"].as_str() {
            Some("incomplete") => 0,
            Some("canceled" | "incomplete_expired") => 2,
            _ => 1,
        };
        let moment = (rank, event.created, event.event_type != "customer.subscription.created");
        let entry = self.0.entry(id.clone()).or_insert_with(|| (moment, BTreeSet::new()));
        if entry.0 < moment {
            *entry = (moment, BTreeSet::new());
        }
        if entry.0 == moment {
            entry.1.insert(object.to_string());
        }
    }

    /// The subscriptions whose newest moment has several contents, by id.
    pub(crate) fn ambiguous(&self) -> Vec<String> {
        let several = self.0.iter().filter(|(_, (_, contents))| contents.len() > 1);
        let mut ids: Vec<String> = several.map(|(id, _)| id.clone()).collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{event::NewEvent, version::ApiVersion};

    fn told(event_type: &'static str, created: i64, status: &str, note: &str) -> std::sync::Arc<Event> {
        Event::new(NewEvent {
            id: format!("evt_{created}{note}"),
            event_type,
            created,
            subscription: Some("sub_1".into()),
            object: json!({ "id": "sub_1", "status": status, "metadata": { "note": note }, "latest_invoice": note }),
            previous: None,
            version: ApiVersion::Endive,
            request: None,
        })
    }

    fn open(events: &[std::sync::Arc<Event>]) -> bool {
        let mut moments = Moments::default();
        for event in events {
            moments.note(event);
        }
        !moments.ambiguous().is_empty()
    }

    #[test]
    fn two_contents_of_one_second_are_open_until_a_later_second_or_a_further_rank_settles_them() {
        let updated = "customer.subscription.updated";
        let (one, two) = (told(updated, 5, "active", "1"), told(updated, 5, "active", "2"));
        assert!(open(&[one.clone(), two.clone()]));
        assert!(!open(&[one.clone(), one.clone()]), "the same twice");
        assert!(!open(&[two.clone(), told(updated, 6, "active", "3"), one.clone()]), "in whatever order");
        assert!(!open(&[told("customer.subscription.deleted", 5, "canceled", "3"), one.clone(), two]));
        assert!(!open(&[told("customer.subscription.created", 5, "active", "0"), one.clone()]));
        assert!(!open(&[told("invoice.paid", 5, "paid", "x"), one]));
    }
}
