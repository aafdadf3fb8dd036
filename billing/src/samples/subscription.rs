//! Subscriptions, their items, prices and discounts.

use serde_json::{Value, json};

use super::{ApiVersion, Metadata, merged, next_period, tail, when};

/// A subscription. Its period is that of its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionSample {
    /// `sub_…`
    pub id: String,
    /// `cus_…`
    pub customer: String,
    /// `active`, `trialing`, `past_due`, …
    pub status: String,
    /// When it was made, and started.
    pub created: i64,
    /// What it consists of.
    pub items: Vec<ItemSample>,
    /// When it is scheduled to end.
    pub cancel_at: Option<i64>,
    /// Whether it ends with its period.
    pub cancel_at_period_end: bool,
    /// When its end was asked for.
    pub canceled_at: Option<i64>,
    /// Why it ends; absent: `cancellation_requested` where `canceled_at` is set.
    pub cancellation_reason: Option<String>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// When its trial began.
    pub trial_start: Option<i64>,
    /// When its trial ends.
    pub trial_end: Option<i64>,
    /// The behaviour of a collection that is paused: `keep_as_draft`, `mark_uncollectible` or `void`.
    pub pause_collection: Option<String>,
    /// The one discount on it.
    pub discount: Option<DiscountSample>,
    /// What the customer is shown.
    pub description: Option<String>,
    /// Free text of the host, often with `user_id`.
    pub metadata: Metadata,
    /// Three letters, lower case.
    pub currency: String,
    /// False in a sandbox.
    pub livemode: bool,
    /// What its periods are counted from.
    pub billing_cycle_anchor: i64,
    /// `in_…`
    pub latest_invoice: Option<String>,
}

/// One item of a subscription, with its price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemSample {
    /// `si_…`
    pub id: String,
    /// `price_…`
    pub price: String,
    /// `prod_…`
    pub product: String,
    /// The price's name for look-ups.
    pub lookup_key: Option<String>,
    /// What the host calls the price.
    pub nickname: Option<String>,
    /// How many.
    pub quantity: i64,
    /// `day`, `week`, `month` or `year`
    pub interval: String,
    /// Intervals in a period.
    pub interval_count: u32,
    /// Minor units.
    pub unit_amount: i64,
    /// The price's metadata, where `tier` may be.
    pub price_metadata: Metadata,
    /// When its current period began.
    pub period_start: i64,
    /// When its current period ends.
    pub period_end: i64,
}

/// A discount by a coupon of so many percent, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscountSample {
    /// `di_…`
    pub id: String,
    /// The coupon's id.
    pub coupon: String,
    /// Percent off.
    pub percent_off: u8,
    /// Since when.
    pub start: i64,
}

impl ItemSample {
    /// One a month, nineteen of the currency each, from `at` on.
    pub fn monthly(id: impl Into<String>, price: impl Into<String>, product: impl Into<String>, at: i64) -> Self {
        Self {
            id: id.into(),
            price: price.into(),
            product: product.into(),
            lookup_key: None,
            nickname: None,
            quantity: 1,
            interval: "month".to_owned(),
            interval_count: 1,
            unit_amount: 1900,
            price_metadata: Metadata::new(),
            period_start: at,
            period_end: next_period(at, "month", 1),
        }
    }

    /// What it costs for one period.
    pub fn amount(&self) -> i64 {
        self.unit_amount.saturating_mul(self.quantity)
    }

    pub(super) fn price(&self, owner: Owner<'_>, version: ApiVersion) -> Value {
        json!({
            "id": self.price,
            "object": "price",
            "active": true,
            "billing_scheme": "per_unit",
            "created": owner.created,
            "currency": owner.currency,
            "custom_unit_amount": null,
            "livemode": owner.livemode,
            "lookup_key": self.lookup_key,
            "metadata": self.price_metadata,
            "nickname": self.nickname,
            "product": self.product,
            "recurring": merged([
                json!({
                    "interval": self.interval,
                    "interval_count": self.interval_count,
                    "meter": null,
                    "trial_period_days": null,
                    "usage_type": "licensed",
                }),
                when(version < ApiVersion::Basil, || json!({ "aggregate_usage": null })),
            ]),
            "tax_behavior": "unspecified",
            "tiers_mode": null,
            "transform_quantity": null,
            "type": "recurring",
            "unit_amount": self.unit_amount,
            "unit_amount_decimal": self.unit_amount.to_string(),
        })
    }

    /// The price as the older API called it. Stripe still sends it beside the price.
    pub(super) fn plan(&self, owner: Owner<'_>, version: ApiVersion) -> Value {
        merged([
            json!({
                "id": self.price,
                "object": "plan",
                "active": true,
                "amount": self.unit_amount,
                "amount_decimal": self.unit_amount.to_string(),
                "billing_scheme": "per_unit",
                "created": owner.created,
                "currency": owner.currency,
                "interval": self.interval,
                "interval_count": self.interval_count,
                "livemode": owner.livemode,
            }),
            json!({
                "metadata": self.price_metadata,
                "meter": null,
                "nickname": self.nickname,
                "product": self.product,
                "tiers_mode": null,
                "transform_usage": null,
                "trial_period_days": null,
                "usage_type": "licensed",
            }),
            when(version < ApiVersion::Basil, || json!({ "aggregate_usage": null })),
        ])
    }

    fn render(&self, subscription: &str, owner: Owner<'_>, version: ApiVersion) -> Value {
        merged([
            json!({
                "id": self.id,
                "object": "subscription_item",
                "created": owner.created,
                "discounts": [],
                "metadata": {},
                "plan": self.plan(owner, version),
                "price": self.price(owner, version),
                "quantity": self.quantity,
                "subscription": subscription,
                "tax_rates": [],
            }),
            // Basil took it away; 2025-07-30, still basil, brought it back.
            when(version != ApiVersion::Basil, || json!({ "billing_thresholds": null })),
            when(
                version >= ApiVersion::Basil,
                || json!({ "current_period_start": self.period_start, "current_period_end": self.period_end }),
            ),
        ])
    }
}

/// What items and lines take from the object they belong to.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) created: i64,
    pub(super) currency: &'a str,
    pub(super) livemode: bool,
}

impl DiscountSample {
    /// Half the price.
    pub fn new(id: impl Into<String>, coupon: impl Into<String>, at: i64) -> Self {
        Self { id: id.into(), coupon: coupon.into(), percent_off: 50, start: at }
    }

    pub(super) fn render(
        &self,
        customer: &str,
        subscription: Option<&str>,
        livemode: bool,
        version: ApiVersion,
    ) -> Value {
        let coupon = if version >= ApiVersion::Clover {
            json!({ "source": { "coupon": self.coupon, "type": "coupon" } })
        } else {
            json!({ "coupon": {
                "id": self.coupon,
                "object": "coupon",
                "amount_off": null,
                "created": self.start,
                "currency": null,
                "duration": "forever",
                "duration_in_months": null,
                "livemode": livemode,
                "max_redemptions": null,
                "metadata": {},
                "name": null,
                "percent_off": self.percent_off,
                "redeem_by": null,
                "times_redeemed": 1,
                "valid": true,
            } })
        };
        merged([
            json!({
                "id": self.id,
                "object": "discount",
                "checkout_session": null,
                "customer": customer,
                "end": null,
                "invoice": null,
                "invoice_item": null,
                "promotion_code": null,
                "start": self.start,
                "subscription": subscription,
                "subscription_item": null,
            }),
            coupon,
        ])
    }
}

impl SubscriptionSample {
    /// One monthly item from `at` on. `trialing` begins a trial of 14 days; `canceled` and `incomplete_expired` have ended at `at`.
    pub fn new(id: impl Into<String>, customer: impl Into<String>, status: impl Into<String>, at: i64) -> Self {
        let (id, status) = (id.into(), status.into());
        let key = tail(&id);
        let item = ItemSample::monthly(format!("si_{key}"), format!("price_{key}"), format!("prod_{key}"), at);
        let ended = matches!(status.as_str(), "canceled" | "incomplete_expired").then_some(at);
        let trial_end = (status == "trialing").then_some(at.saturating_add(14 * 86_400));
        let mut sample = Self {
            latest_invoice: Some(format!("in_{key}")),
            id,
            customer: customer.into(),
            created: at,
            items: vec![item],
            cancel_at: None,
            cancel_at_period_end: false,
            canceled_at: ended,
            cancellation_reason: None,
            ended_at: ended,
            trial_start: trial_end.map(|_| at),
            trial_end,
            pause_collection: None,
            discount: None,
            description: None,
            metadata: Metadata::new(),
            currency: "usd".to_owned(),
            livemode: false,
            billing_cycle_anchor: trial_end.unwrap_or(at),
            status,
        };
        if let Some(end) = trial_end {
            sample.set_period(at, end);
        }
        sample
    }

    /// Gives all items this period.
    pub fn set_period(&mut self, start: i64, end: i64) {
        for item in &mut self.items {
            (item.period_start, item.period_end) = (start, end);
        }
    }

    /// The earliest start among the items, which is what Stripe showed before basil.
    pub fn period_start(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period_start).min()
    }

    /// The latest end among the items.
    pub fn period_end(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period_end).max()
    }

    fn owner(&self) -> Owner<'_> {
        Owner { created: self.created, currency: &self.currency, livemode: self.livemode }
    }

    /// The items as `items.data` holds them; a renewal's `previous_attributes` show the old ones in the same form.
    pub fn render_items(&self, version: ApiVersion) -> Vec<Value> {
        self.items.iter().map(|item| item.render(&self.id, self.owner(), version)).collect()
    }

    /// As Stripe shows it in this version.
    pub fn render(&self, version: ApiVersion) -> Value {
        let reason = self
            .cancellation_reason
            .as_deref()
            .or_else(|| self.canceled_at.is_some().then_some("cancellation_requested"));
        let discounts: Vec<&str> = self.discount.iter().map(|discount| discount.id.as_str()).collect();
        let only_item = match self.items.as_slice() {
            [item] => Some(item),
            _ => None,
        };
        let basil = version >= ApiVersion::Basil;
        merged([
            json!({
                "id": self.id,
                "object": "subscription",
                "application": null,
                "application_fee_percent": null,
                "automatic_tax": merged([
                    json!({ "disabled_reason": null, "enabled": false }),
                    when(version > ApiVersion::V2020_08_27, || json!({ "liability": null })),
                ]),
                "billing_cycle_anchor": self.billing_cycle_anchor,
                "billing_cycle_anchor_config": null,
                "cancel_at": self.cancel_at,
                "cancel_at_period_end": self.cancel_at_period_end,
                "canceled_at": self.canceled_at,
                "cancellation_details": { "comment": null, "feedback": null, "reason": reason },
                "collection_method": "charge_automatically",
                "created": self.created,
                "currency": self.currency,
                "customer": self.customer,
                "days_until_due": null,
                "default_payment_method": format!("pm_{}", tail(&self.id)),
                "default_source": null,
                "default_tax_rates": [],
                "description": self.description,
                "discounts": discounts,
                "ended_at": self.ended_at,
                "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
            }),
            json!({
                "items": {
                    "object": "list",
                    "data": self.render_items(version),
                    "has_more": false,
                    "total_count": self.items.len(),
                    "url": format!("/v1/subscription_items?subscription={}", self.id),
                },
                "latest_invoice": self.latest_invoice,
                "livemode": self.livemode,
                "metadata": self.metadata,
                "next_pending_invoice_item_invoice": null,
                "on_behalf_of": null,
                "pause_collection": self.pause_collection.as_ref()
                    .map(|behavior| json!({ "behavior": behavior, "resumes_at": null })),
                "payment_settings": {
                    "payment_method_options": merged([
                        json!({
                            "acss_debit": null,
                            "bancontact": null,
                            "card": { "network": null, "request_three_d_secure": "automatic" },
                            "customer_balance": null,
                            "konbini": null,
                            "sepa_debit": null,
                            "us_bank_account": null,
                        }),
                        when(version >= ApiVersion::Endive, || {
                            json!({ "billie": null, "payto": null, "pix": null, "upi": null })
                        }),
                    ]),
                    "payment_method_types": ["card", "link"],
                    "save_default_payment_method": "off",
                },
            }),
            json!({
                "pending_invoice_item_interval": null,
                "pending_setup_intent": null,
                "pending_update": null,
                // No longer documented, still sent.
                "plan": only_item.map(|item| item.plan(self.owner(), version)),
                "quantity": only_item.map(|item| item.quantity),
                "schedule": null,
                "start_date": self.created,
                "status": self.status,
                "test_clock": null,
                "transfer_data": null,
                "trial_end": self.trial_end,
                "trial_settings": { "end_behavior": { "missing_payment_method": "create_invoice" } },
                "trial_start": self.trial_start,
            }),
            when(version != ApiVersion::Basil, || json!({ "billing_thresholds": null })),
            when(!basil, || {
                let discount = self.discount.as_ref();
                json!({
                    "current_period_end": self.period_end(),
                    "current_period_start": self.period_start(),
                    "discount": discount
                        .map(|discount| discount.render(&self.customer, Some(&self.id), self.livemode, version)),
                })
            }),
            when(version >= ApiVersion::Clover, || {
                json!({
                    "billing_mode": {
                        "flexible": { "proration_discounts": "included" },
                        "type": "flexible",
                        "updated_at": self.created,
                    },
                    "customer_account": null,
                })
            }),
            when(
                version >= ApiVersion::Endive,
                || json!({ "billing_schedules": [], "managed_payments": { "enabled": false } }),
            ),
            when(version >= ApiVersion::Endive && self.status == "paused", || {
                json!({ "status_details": {
                    "paused": { "subscription": { "type": "trial_end_without_payment_method" } },
                } })
            }),
        ])
    }
}
