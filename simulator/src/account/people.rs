//! Products, prices, customers, endpoints.

use super::{Account, Due, Refusal, When, difference};
use crate::{
    calendar::Interval,
    model::{Card, Customer, Endpoint, Metadata, Price, Product},
    render,
};

/// A price to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewPrice {
    pub(crate) id: Option<String>,
    pub(crate) product: String,
    pub(crate) unit_amount: i64,
    pub(crate) currency: String,
    pub(crate) interval: Option<Interval>,
    pub(crate) lookup_key: Option<String>,
    pub(crate) nickname: Option<String>,
    pub(crate) metadata: Metadata,
}

/// What a customer is to become; what is absent stays. An empty text takes the value away, as at Stripe.
#[derive(Debug, Clone, Default)]
pub(crate) struct CustomerChange {
    pub(crate) email: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: Metadata,
    pub(crate) card: Option<Card>,
}

/// Merges as Stripe does: an empty value takes the key away (docs.stripe.com/api/metadata).
pub(super) fn merge_metadata(metadata: &mut Metadata, told: Metadata) {
    for (key, value) in told {
        if value.is_empty() {
            metadata.remove(&key);
        } else {
            metadata.insert(key, value);
        }
    }
}

fn set(field: &mut Option<String>, told: Option<String>) {
    if let Some(told) = told {
        *field = Some(told).filter(|told| !told.is_empty());
    }
}

impl CustomerChange {
    fn apply(self, customer: &mut Customer) {
        set(&mut customer.email, self.email);
        set(&mut customer.name, self.name);
        set(&mut customer.description, self.description);
        merge_metadata(&mut customer.metadata, self.metadata);
        customer.card = self.card.unwrap_or(customer.card);
    }
}

impl Account {
    pub(crate) fn create_product(&mut self, id: Option<String>, name: String, metadata: Metadata) -> String {
        let id = id.unwrap_or_else(|| self.new_id("prod_", 14));
        let product = Product { id: id.clone(), name, active: true, created: self.now, metadata };
        let object = render::product(&product);
        self.products.insert(product);
        self.tell("product.created", None, object, None);
        id
    }

    pub(crate) fn create_price(&mut self, new: NewPrice) -> Result<String, Refusal> {
        if self.products.get(&new.product).is_none() {
            return Err(Refusal::missing("product", &new.product, "product"));
        }
        if new.lookup_key.is_some() && self.prices.iter().any(|price| price.lookup_key == new.lookup_key) {
            let message = "A price already uses that lookup key; transfer it by transfer_lookup_key=true.";
            return Err(Refusal::invalid(message, "lookup_key"));
        }
        let id = new.id.unwrap_or_else(|| self.new_id("price_1", 23));
        let price = Price {
            id: id.clone(),
            product: new.product,
            active: true,
            created: self.now,
            currency: new.currency,
            unit_amount: new.unit_amount,
            interval: new.interval,
            lookup_key: new.lookup_key,
            nickname: new.nickname,
            metadata: new.metadata,
        };
        let object = render::price(&price, self.version);
        self.prices.insert(price);
        self.tell("price.created", None, object, None);
        Ok(id)
    }

    pub(crate) fn create_customer(&mut self, told: CustomerChange) -> String {
        let id = self.new_id("cus_", 14);
        let mut customer = Customer {
            id: id.clone(),
            email: None,
            name: None,
            description: None,
            created: self.now,
            metadata: Metadata::new(),
            card: Card::Good,
            deleted: false,
            invoices: 0,
        };
        told.apply(&mut customer);
        let object = render::customer(&customer, self.version);
        self.customers.insert(customer);
        self.tell("customer.created", None, object, None);
        id
    }

    pub(crate) fn living_customer(&self, id: &str, param: &str) -> Result<&Customer, Refusal> {
        self.customers
            .get(id)
            .filter(|customer| !customer.deleted)
            .ok_or_else(|| Refusal::missing("customer", id, param))
    }

    pub(crate) fn update_customer(&mut self, id: &str, told: CustomerChange) -> Result<(), Refusal> {
        let mut customer = self.living_customer(id, "id")?.clone();
        let old = render::customer(&customer, self.version);
        told.apply(&mut customer);
        let new = render::customer(&customer, self.version);
        self.customers.insert(customer);
        // A new card is no change of the object that Stripe shows.
        if old != new {
            let previous = difference(&old, &new);
            self.tell("customer.updated", None, new, Some(previous));
        }
        Ok(())
    }

    /// Deletes a customer; their subscriptions end at once (docs.stripe.com/api/customers/delete).
    pub(crate) fn delete_customer(&mut self, id: &str) -> Result<(), Refusal> {
        let object = render::customer(self.living_customer(id, "id")?, self.version);
        let theirs = self.subscriptions.iter().filter(|s| s.customer == id && !s.status.is_over());
        let theirs: Vec<String> = theirs.map(|subscription| subscription.id.clone()).collect();
        for subscription in theirs {
            self.cancel(&subscription, When::Now)?;
        }
        if let Some(customer) = self.customers.get_mut(id) {
            customer.deleted = true;
        }
        self.tell("customer.deleted", None, object, None);
        Ok(())
    }

    /// Makes an endpoint; its secret is made too where none is given.
    pub(crate) fn create_endpoint(
        &mut self,
        url: String,
        types: Vec<String>,
        secret: Option<String>,
        description: Option<String>,
        metadata: Metadata,
    ) -> String {
        let id = self.new_id("we_1", 23);
        let secret = secret.unwrap_or_else(|| self.new_id("whsec_", 32));
        self.endpoints.insert(Endpoint {
            id: id.clone(),
            url,
            enabled: true,
            types,
            created: self.now,
            description,
            metadata,
            secrets: vec![(secret, None)],
            deleted: false,
        });
        id
    }

    /// Gives an endpoint a new secret; the old ones stay in force until `until` (docs.stripe.com/webhooks, "Roll endpoint signing
    /// secrets").
    pub(crate) fn roll_secret(&mut self, id: &str, secret: String, until: i64) {
        if let Some(endpoint) = self.endpoints.get_mut(id) {
            for (_, end) in &mut endpoint.secrets {
                *end = Some(end.unwrap_or(until).min(until));
            }
            endpoint.secrets.insert(0, (secret, None));
        }
    }

    pub(super) fn resume_collection(&mut self, id: &str, at: i64) {
        let Some(subscription) = self.subscriptions.get(id) else { return };
        let resumes = subscription.pause_collection.as_ref().is_some_and(|pause| pause.resumes_at == Some(at));
        if resumes && !subscription.status.is_over() {
            self.change_subscription(id, &["customer.subscription.updated"], |s| s.pause_collection = None);
        }
    }

    pub(super) fn put_end(&mut self, id: &str, at: i64) {
        self.put(at, Due::CancelAt(id.to_owned()));
    }

    /// The metadata of what it is about, for whoever tests.
    #[cfg(test)]
    pub(crate) fn last_event(&self, event_type: &str) -> Option<serde_json::Value> {
        let event = self.events_newest_first().find(|event| event.event_type == event_type)?;
        serde_json::from_str(&event.body()).ok()
    }
}
