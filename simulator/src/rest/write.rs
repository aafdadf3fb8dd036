//! What can be changed.

use serde_json::{Value, json};

use super::{params::Params, read};
use crate::{
    account::{
        Account, Collection, CustomerChange, FirstPayment, ItemChange, NewPrice, NewSession, NewSubscription, Refusal,
        SubscriptionChange, When,
    },
    calendar::{DAY, Interval, Unit},
    model::{Card, NoCard, PausedCollection},
    render,
    version::ApiVersion,
};

fn required(params: &mut Params, key: &str) -> Result<String, Refusal> {
    params
        .take(key)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Refusal::invalid(format!("Missing required param: {key}."), key).with_code("parameter_missing"))
}

/// Does it and gives the object as it is then; `None` for an address that is not known here.
pub(super) fn change(
    account: &mut Account,
    method: &str,
    path: &[&str],
    params: Params,
    version: ApiVersion,
) -> Result<Option<Value>, Refusal> {
    let show = |account: &Account, collection: &str, id: &str| {
        read::get(account, &[collection, id], Params::default(), version)
    };
    match (method, path) {
        ("POST", ["products"]) => {
            let id = product(account, params)?;
            show(account, "products", &id)
        }
        ("POST", ["prices"]) => {
            let id = price(account, params)?;
            show(account, "prices", &id)
        }
        ("POST", ["customers"]) => {
            let told = customer(params)?;
            let id = account.create_customer(told);
            show(account, "customers", &id)
        }
        ("POST", ["customers", id]) => {
            account.update_customer(id, customer(params)?)?;
            show(account, "customers", id)
        }
        ("DELETE", ["customers", id]) => {
            params.finish()?;
            account.delete_customer(id)?;
            Ok(Some(render::deleted_customer(id)))
        }
        ("POST", ["subscriptions"]) => {
            let id = new_subscription(account, params)?;
            show(account, "subscriptions", &id)
        }
        ("POST", ["subscriptions", id]) => {
            let told = subscription_change(account, id, params)?;
            account.update_subscription(id, told)?;
            show(account, "subscriptions", id)
        }
        ("DELETE", ["subscriptions", id]) => {
            account.cancel(id, When::Now)?;
            show(account, "subscriptions", id)
        }
        ("POST", ["subscriptions", id, "pause"]) => {
            account.pause(id)?;
            show(account, "subscriptions", id)
        }
        ("POST", ["subscriptions", id, "resume"]) => {
            account.resume(id)?;
            show(account, "subscriptions", id)
        }
        ("POST", ["invoices", id, action @ ("pay" | "void" | "mark_uncollectible")]) => {
            match *action {
                "pay" => account.pay_invoice(id)?,
                "void" => account.void_invoice(id)?,
                _ => account.mark_uncollectible(id)?,
            }
            show(account, "invoices", id)
        }
        ("POST", ["checkout/sessions"]) => {
            let id = session(account, params)?;
            show(account, "checkout/sessions", &id)
        }
        // Not Stripe's: what the customer does on the page that `url` names.
        ("POST", ["checkout/sessions", id, "complete"]) => {
            account.complete_session(id, false)?;
            show(account, "checkout/sessions", id)
        }
        ("POST", ["refunds"]) => refund(account, params),
        ("POST", ["webhook_endpoints"]) => endpoint(account, params),
        ("POST", ["webhook_endpoints", id]) => {
            update_endpoint(account, id, params)?;
            show(account, "webhook_endpoints", id)
        }
        ("DELETE", ["webhook_endpoints", id]) => {
            let found = account.endpoints.get_mut(id).filter(|endpoint| !endpoint.deleted);
            found.ok_or_else(|| Refusal::missing("webhook_endpoint", id, "id"))?.deleted = true;
            Ok(Some(json!({ "id": id, "object": "webhook_endpoint", "deleted": true })))
        }
        _ => Ok(None),
    }
}

fn product(account: &mut Account, mut params: Params) -> Result<String, Refusal> {
    let (id, name, metadata) = (params.take("id"), required(&mut params, "name")?, params.metadata("metadata"));
    let _ = (params.take("description"), params.take("type"), params.take("active"));
    params.finish()?;
    Ok(account.create_product(id, name, metadata))
}

fn price(account: &mut Account, mut params: Params) -> Result<String, Refusal> {
    let unit = params.take("recurring[interval]");
    let count = params.number("recurring[interval_count]")?.unwrap_or(1);
    let interval = match unit {
        None => None,
        Some(unit) => {
            let unit = Unit::parse(&unit).ok_or_else(|| {
                Refusal::invalid(
                    "Invalid recurring[interval]: must be one of day, month, week, or year",
                    "recurring[interval]",
                )
            })?;
            let count = u32::try_from(count)
                .ok()
                .filter(|count| *count > 0)
                .ok_or_else(|| Refusal::invalid(format!("Invalid integer: {count}"), "recurring[interval_count]"))?;
            Some(Interval { unit, count })
        }
    };
    let product = match params.take("product_data[name]") {
        Some(name) => {
            let metadata = params.metadata("product_data[metadata]");
            account.create_product(None, name, metadata)
        }
        None => required(&mut params, "product")?,
    };
    let new = NewPrice {
        id: None,
        product,
        unit_amount: params.number("unit_amount")?.unwrap_or(0),
        currency: required(&mut params, "currency")?,
        interval,
        lookup_key: params.take("lookup_key"),
        nickname: params.take("nickname"),
        metadata: params.metadata("metadata"),
    };
    params.finish()?;
    account.create_price(new)
}

/// The cards of Stripe's tests (docs.stripe.com/testing), by the payment methods that stand for them.
fn card(method: &str) -> Card {
    match method {
        "" => Card::None,
        "pm_card_chargeDeclined" | "pm_card_visa_chargeDeclined" | "pm_card_chargeCustomerFail" => Card::Declines,
        "pm_card_authenticationRequired" | "pm_card_threeDSecure2Required" => Card::NeedsAction,
        _ => Card::Good,
    }
}

fn customer(mut params: Params) -> Result<CustomerChange, Refusal> {
    let default = params.take("invoice_settings[default_payment_method]");
    let method = params.take("payment_method").or(default);
    let told = CustomerChange {
        email: params.take("email"),
        name: params.take("name"),
        description: params.take("description"),
        metadata: params.metadata("metadata"),
        card: method.as_deref().map(card),
    };
    params.finish()?;
    Ok(told)
}

fn items(params: &mut Params, key: &str) -> Result<Vec<ItemChange>, Refusal> {
    let mut items = Vec::new();
    for mut entry in params.entries(key) {
        items.push(ItemChange {
            id: entry.take("id"),
            price: entry.take("price").or_else(|| entry.take("plan")),
            quantity: entry.number("quantity")?,
            deleted: entry.flag("deleted")?.unwrap_or(false),
        });
        entry.finish()?;
    }
    Ok(items)
}

fn new_subscription(account: &mut Account, mut params: Params) -> Result<String, Refusal> {
    let trial = match (params.number("trial_period_days")?, params.number("trial_end")?) {
        (Some(days), _) if days > 0 => Some(account.now() + days.saturating_mul(DAY)),
        (_, end) => end,
    };
    let no_card = match params.take("trial_settings[end_behavior][missing_payment_method]").as_deref() {
        Some("pause") => NoCard::Pause,
        Some("cancel") => NoCard::Cancel,
        _ => NoCard::CreateInvoice,
    };
    let first_payment = match params.take("payment_behavior").as_deref() {
        Some("default_incomplete") => FirstPayment::ByCustomer,
        _ => FirstPayment::AtOnce,
    };
    let flexible = params.take("billing_mode[type]").map(|mode| mode == "flexible");
    let end = ends(&mut params, account.now())?;
    let customer = required(&mut params, "customer")?;
    let mut priced = Vec::new();
    for (index, item) in items(&mut params, "items")?.into_iter().enumerate() {
        let key = format!("items[{index}][price]");
        let price = item.price.ok_or_else(|| Refusal::invalid(format!("Missing required param: {key}."), &key))?;
        priced.push((price, item.quantity.unwrap_or(1)));
    }
    let metadata = params.metadata("metadata");
    params.finish()?;
    let id = account.create_subscription(NewSubscription {
        customer,
        items: priced,
        metadata,
        trial_end: trial,
        first_payment,
        no_card,
        flexible,
    })?;
    if let Some(when) = end {
        account.cancel(&id, when)?;
    }
    Ok(id)
}

/// What the parameters say of the end.
fn ends(params: &mut Params, now: i64) -> Result<Option<When>, Refusal> {
    let flag = params.flag("cancel_at_period_end")?;
    Ok(match (params.take("cancel_at").as_deref(), flag) {
        (Some(""), _) | (None, Some(false)) => Some(When::Never),
        // Both resolve to a date; which period counts makes no difference here (docs.stripe.com/changelog/basil/2025-07-30/cancel-at-enums).
        (Some("max_period_end" | "min_period_end"), _) => Some(When::PortalPeriodEnd),
        (Some(at), _) => {
            let at = at.parse().map_err(|_| Refusal::invalid(format!("Invalid integer: {at}"), "cancel_at"))?;
            if at <= now {
                return Err(Refusal::invalid("cancel_at must be a timestamp in the future.", "cancel_at"));
            }
            Some(When::At(at))
        }
        (None, Some(true)) => Some(When::PeriodEnd),
        (None, None) => None,
    })
}

fn subscription_change(account: &Account, id: &str, mut params: Params) -> Result<SubscriptionChange, Refusal> {
    let end = ends(&mut params, account.now())?;
    let collection = match (params.take("pause_collection"), params.take("pause_collection[behavior]")) {
        (_, Some(behavior)) if matches!(behavior.as_str(), "keep_as_draft" | "mark_uncollectible" | "void") => {
            let resumes_at = params.number("pause_collection[resumes_at]")?;
            Collection::Pause(PausedCollection { behavior, resumes_at })
        }
        (_, Some(_)) => {
            let message =
                "Invalid pause_collection[behavior]: must be one of keep_as_draft, mark_uncollectible, or void";
            return Err(Refusal::invalid(message, "pause_collection[behavior]"));
        }
        (Some(_), None) => Collection::GoOn,
        (None, None) => Collection::AsItIs,
    };
    let end_trial = match params.take("trial_end").as_deref() {
        None => false,
        Some("now") => true,
        Some(_) => return Err(Refusal::invalid("Only `now` is supported by the simulator.", "trial_end")),
    };
    let items = items(&mut params, "items")?;
    let metadata = params.metadata("metadata");
    // What has to be paid for a part of a period is not calculated.
    let _ = (params.take("proration_behavior"), params.take("payment_behavior"));
    params.finish()?;
    if account.subscriptions.get(id).is_none() {
        return Err(Refusal::missing("subscription", id, "id"));
    }
    Ok(SubscriptionChange { items, metadata, end, collection, end_trial })
}

fn session(account: &mut Account, mut params: Params) -> Result<String, Refusal> {
    match params.take("mode").as_deref() {
        Some("subscription") => {}
        _ => return Err(Refusal::invalid("Only mode=subscription is supported by the simulator.", "mode")),
    }
    let days = params.number("subscription_data[trial_period_days]")?.unwrap_or(0);
    let mut line_items = Vec::new();
    for item in items(&mut params, "line_items")? {
        line_items.push((item.price.unwrap_or_default(), item.quantity.unwrap_or(1)));
    }
    let new = NewSession {
        customer: params.take("customer"),
        customer_email: params.take("customer_email"),
        reference: params.take("client_reference_id"),
        metadata: params.metadata("metadata"),
        subscription_metadata: params.metadata("subscription_data[metadata]"),
        line_items,
        trial_days: u32::try_from(days).unwrap_or(0),
    };
    let _ = (params.take("success_url"), params.take("cancel_url"), params.take("return_url"), params.take("ui_mode"));
    params.finish()?;
    account.create_session(new)
}

fn refund(account: &mut Account, mut params: Params) -> Result<Option<Value>, Refusal> {
    let (charge, amount) = (required(&mut params, "charge")?, params.number("amount")?);
    params.finish()?;
    account.refund(&charge, amount)?;
    let found = account.charges.get(&charge);
    Ok(Some(json!({
        "id": account_refund_id(&charge),
        "object": "refund",
        "amount": amount.or(found.map(|charge| charge.refunded)),
        "charge": charge,
        "created": account.now(),
        "currency": found.map(|charge| charge.currency.clone()),
        "status": "succeeded",
    })))
}

fn account_refund_id(charge: &str) -> String {
    charge.replacen("ch_", "re_", 1)
}

fn endpoint(account: &mut Account, mut params: Params) -> Result<Option<Value>, Refusal> {
    let url = required(&mut params, "url")?;
    let types = params.list("enabled_events");
    let (description, metadata) = (params.take("description"), params.metadata("metadata"));
    let version = params.take("api_version");
    params.finish()?;
    if types.is_empty() {
        return Err(Refusal::invalid("Missing required param: enabled_events.", "enabled_events")
            .with_code("parameter_missing"));
    }
    if version.is_some_and(|version| version != account.version.as_str()) {
        return Err(Refusal::invalid("The simulator writes every event in the version of its account.", "api_version"));
    }
    let id = account.create_endpoint(url, types, None, description, metadata);
    let version = account.version;
    Ok(account.endpoints.get(&id).map(|made| render::endpoint(made, version, true)))
}

fn update_endpoint(account: &mut Account, id: &str, mut params: Params) -> Result<(), Refusal> {
    let (url, disabled, types) = (params.take("url"), params.flag("disabled")?, params.list("enabled_events"));
    let (description, metadata) = (params.take("description"), params.metadata("metadata"));
    params.finish()?;
    let found = account.endpoints.get_mut(id).filter(|endpoint| !endpoint.deleted);
    let found = found.ok_or_else(|| Refusal::missing("webhook_endpoint", id, "id"))?;
    found.url = url.unwrap_or_else(|| found.url.clone());
    found.enabled = disabled.map_or(found.enabled, |disabled| !disabled);
    if !types.is_empty() {
        found.types = types;
    }
    found.description = description.or(found.description.take());
    found.metadata.extend(metadata);
    Ok(())
}
