//! What can be looked at.

use serde_json::{Value, json};

use super::{
    lists::{Page, Range},
    params::Params,
};
use crate::{
    account::{Account, Refusal},
    event::Event,
    model::{Status, Subscription},
    render,
    version::ApiVersion,
};

/// Most types in one call (node `EventListParams`).
const MOST_TYPES: usize = 20;

/// The answer; `None` for an address that is not known here.
pub(super) fn get(
    account: &Account,
    path: &[&str],
    mut params: Params,
    version: ApiVersion,
) -> Result<Option<Value>, Refusal> {
    let missing = |what: &str, id: &str| Refusal::missing(what, id, "id");
    let body = match path {
        ["account"] => render::account(),
        ["products", id] => render::product(account.products.get(id).ok_or_else(|| missing("product", id))?),
        ["prices", id] => render::price(account.prices.get(id).ok_or_else(|| missing("price", id))?, version),
        ["customers", id] => {
            let customer = account.customers.get(id).ok_or_else(|| missing("customer", id))?;
            if customer.deleted { render::deleted_customer(id) } else { render::customer(customer, version) }
        }
        ["subscriptions", id] => {
            let found = account.subscriptions.get(id).ok_or_else(|| missing("subscription", id))?;
            render::subscription(account, found, version)
        }
        ["subscription_items", id] => {
            let found = account.subscriptions.iter().find_map(|subscription| {
                let item = subscription.items.iter().find(|item| item.id == *id)?;
                Some(render::item(account, item, &subscription.id, version))
            });
            found.ok_or_else(|| missing("subscription_item", id))?
        }
        ["invoices", id] => {
            render::invoice(account, account.invoices.get(id).ok_or_else(|| missing("invoice", id))?, version)
        }
        ["checkout/sessions", id] => {
            let found = account.sessions.get(id).ok_or_else(|| missing("checkout.session", id))?;
            render::session(account, found, version)
        }
        ["charges", id] => {
            render::charge(account, account.charges.get(id).ok_or_else(|| missing("charge", id))?, version)
        }
        ["disputes", id] => render::dispute(account.disputes.get(id).ok_or_else(|| missing("dispute", id))?, version),
        ["webhook_endpoints", id] => {
            let found = account.endpoints.get(id).filter(|endpoint| !endpoint.deleted);
            render::endpoint(found.ok_or_else(|| missing("webhook_endpoint", id))?, account.version, false)
        }
        [collection] => return list(account, collection, params, version),
        _ => return Ok(None),
    };
    // What an object is asked for beyond `expand` is not known.
    let _ = params.take("include[]");
    params.finish()?;
    Ok(Some(body))
}

/// One event, as it was sent.
pub(super) fn event(account: &Account, path: &[&str]) -> Result<Option<String>, Refusal> {
    let ["events", id] = path else { return Ok(None) };
    let found = account.events_newest_first().find(|event| event.id == *id);
    found.map(|event| Some(event.body())).ok_or_else(|| Refusal::missing("event", id, "id"))
}

fn list(
    account: &Account,
    collection: &str,
    mut params: Params,
    version: ApiVersion,
) -> Result<Option<Value>, Refusal> {
    let page = Page::take(&mut params)?;
    let url = format!("/v1/{collection}");
    let params = &mut params;
    let body = match collection {
        "products" => {
            let active = params.flag("active")?;
            finished(params)?;
            let rows = account.products.iter().rev();
            page.of(
                "product",
                &url,
                rows,
                |row| &row.id,
                |row| active.is_none_or(|active| row.active == active),
                |row| render::product(row),
            )
        }
        "prices" => {
            let (product, active, keys) = (params.take("product"), params.flag("active")?, params.list("lookup_keys"));
            finished(params)?;
            let fits = |row: &&crate::model::Price| {
                product.as_ref().is_none_or(|product| row.product == *product)
                    && active.is_none_or(|active| row.active == active)
                    && (keys.is_empty() || row.lookup_key.as_ref().is_some_and(|key| keys.contains(key)))
            };
            let rows = account.prices.iter().rev();
            page.of("price", &url, rows, |row| &row.id, fits, |row| render::price(row, version))
        }
        "customers" => {
            let (email, created) = (params.take("email"), Range::take(params, "created")?);
            finished(params)?;
            let fits = |row: &&crate::model::Customer| {
                !row.deleted
                    && created.holds(row.created)
                    && email.as_ref().is_none_or(|email| row.email.as_ref() == Some(email))
            };
            let rows = account.customers.iter().rev();
            page.of("customer", &url, rows, |row| &row.id, fits, |row| render::customer(row, version))
        }
        "subscriptions" => subscriptions(account, page, &url, params, version),
        "subscription_items" => {
            let id = params.take("subscription").ok_or_else(|| {
                Refusal::invalid("Missing required param: subscription.", "subscription").with_code("parameter_missing")
            })?;
            finished(params)?;
            let of =
                account.subscriptions.get(&id).ok_or_else(|| Refusal::missing("subscription", &id, "subscription"))?;
            // In the order in which the subscription shows them.
            let rows = of.items.iter();
            page.of(
                "subscription_item",
                &url,
                rows,
                |row| &row.id,
                |_| true,
                |row| render::item(account, row, &of.id, version),
            )
        }
        "invoices" => {
            let (customer, subscription) = (params.take("customer"), params.take("subscription"));
            let (status, created) = (params.take("status"), Range::take(params, "created")?);
            finished(params)?;
            let fits = |row: &&crate::model::Invoice| {
                customer.as_ref().is_none_or(|id| row.customer == *id)
                    && subscription.as_ref().is_none_or(|id| row.subscription.as_ref() == Some(id))
                    && status.as_ref().is_none_or(|status| row.status.as_str() == status)
                    && created.holds(row.created)
            };
            let rows = account.invoices.iter().rev();
            page.of("invoice", &url, rows, |row| &row.id, fits, |row| render::invoice(account, row, version))
        }
        "checkout/sessions" => {
            let (customer, subscription) = (params.take("customer"), params.take("subscription"));
            let created = Range::take(params, "created")?;
            finished(params)?;
            let fits = |row: &&crate::model::Session| {
                customer.as_ref().is_none_or(|id| row.customer.as_ref() == Some(id))
                    && subscription.as_ref().is_none_or(|id| row.subscription.as_ref() == Some(id))
                    && created.holds(row.created)
            };
            let rows = account.sessions.iter().rev();
            page.of("checkout.session", &url, rows, |row| &row.id, fits, |row| render::session(account, row, version))
        }
        "events" => events(account, page, &url, params),
        "webhook_endpoints" => {
            finished(params)?;
            let rows = account.endpoints.iter().rev();
            page.of(
                "webhook_endpoint",
                &url,
                rows,
                |row| &row.id,
                |row| !row.deleted,
                |row| render::endpoint(row, account.version, false),
            )
        }
        _ => return Ok(None),
    };
    body.map(Some)
}

fn finished(params: &Params) -> Result<(), Refusal> {
    params.clone().finish()
}

fn subscriptions(
    account: &Account,
    page: Page,
    url: &str,
    params: &mut Params,
    version: ApiVersion,
) -> Result<Value, Refusal> {
    const STATUSES: [&str; 10] = [
        "all",
        "ended",
        "active",
        "canceled",
        "incomplete",
        "incomplete_expired",
        "past_due",
        "paused",
        "trialing",
        "unpaid",
    ];
    let (customer, price, status) = (params.take("customer"), params.take("price"), params.take("status"));
    let created = Range::take(params, "created")?;
    let period_end = Range::take(params, "current_period_end")?;
    finished(params)?;
    if let Some(status) = status.as_deref().filter(|status| !STATUSES.contains(status)) {
        let message = format!("Invalid status: must be one of {} (it is {status})", STATUSES.join(", "));
        return Err(Refusal::invalid(message, "status"));
    }
    let stands = |subscription: &Subscription| match status.as_deref() {
        // The default leaves out what was canceled.
        None => subscription.status != Status::Canceled,
        Some("all") => true,
        Some("ended") => subscription.status.is_over(),
        Some(status) => subscription.status.as_str() == status,
    };
    let fits = |row: &&Subscription| {
        stands(row)
            && customer.as_ref().is_none_or(|id| row.customer == *id)
            && price.as_ref().is_none_or(|id| row.items.iter().any(|item| item.price == *id))
            && created.holds(row.created)
            && row.next_end().is_none_or(|end| period_end.holds(end))
    };
    let rows = account.subscriptions.iter().rev();
    page.of("subscription", url, rows, |row| &row.id, fits, |row| render::subscription(account, row, version))
}

fn events(account: &Account, page: Page, url: &str, params: &mut Params) -> Result<Value, Refusal> {
    let (one, types) = (params.take("type"), params.list("types"));
    let delivered = params.flag("delivery_success")?;
    let created = Range::take(params, "created")?;
    finished(params)?;
    if one.is_some() && !types.is_empty() {
        return Err(Refusal::invalid("You may only specify one of these parameters: type, types.", "type"));
    }
    if types.len() > MOST_TYPES {
        return Err(Refusal::invalid(format!("You may specify up to {MOST_TYPES} types."), "types"));
    }
    let wanted: Vec<String> = one.into_iter().chain(types).collect();
    let is = |wanted: &String, event_type: &str| {
        wanted.strip_suffix('*').map_or(wanted == event_type, |start| event_type.starts_with(start))
    };
    let fits = |row: &&std::sync::Arc<Event>| {
        (wanted.is_empty() || wanted.iter().any(|wanted| is(wanted, row.event_type)))
            && delivered.is_none_or(|delivered| row.is_delivered() == delivered)
            && created.holds(row.created)
    };
    let rows = account.events_newest_first();
    page.of(
        "event",
        url,
        rows,
        |row| row.id.as_str(),
        fits,
        |row| serde_json::from_str(&row.body()).unwrap_or_else(|_| json!({})),
    )
}
