//! The database of a host application as it was before Trueup (PostgreSQL), for tests of adopting it.

/// Tables, functions, indexes and policies; usage columns begin with `propiq`.
pub const SCHEMA: &str = include_str!("host.sql");

/// A user of such a host.
#[derive(Debug, Clone, Copy)]
pub struct HostUser {
    /// The last digits of the id.
    pub number: u32,
    /// `subscription_tier`; empty for NULL.
    pub tier: &'static str,
    /// `subscription_status`; empty for NULL.
    pub status: &'static str,
    /// Empty for NULL.
    pub customer: &'static str,
    /// Empty for NULL.
    pub subscription: &'static str,
    /// Used since the last reset.
    pub used: i32,
    /// The allowance.
    pub limit: i32,
}

impl HostUser {
    /// The id.
    pub fn id(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.number)
    }

    /// The statement that makes the row. The usage was last reset two days ago, and the row last changed in 2025.
    pub fn insert(&self) -> String {
        let Self { number, tier, status, customer, subscription, used, limit } = self;
        let text = |text: &str| if text.is_empty() { "NULL".to_owned() } else { format!("'{text}'") };
        format!(
            "INSERT INTO users (id, email, password_hash, full_name, subscription_tier, subscription_status,
                subscription_stripe_customer_id, subscription_stripe_subscription_id, propiq_usage_count, propiq_usage_limit,
                propiq_last_reset_date, created_at, updated_at, last_login)
             VALUES ('{}', 'User{number}@example.com', '$2b$12$secret{number}', 'User {number}', {}, {}, {}, {}, {used}, {limit},
                date_trunc('second', now() AT TIME ZONE 'UTC') - interval '2 days', '2025-01-02 03:04:05', '2025-02-03 04:05:06', NULL)",
            self.id(),
            text(tier),
            text(status),
            text(customer),
            text(subscription)
        )
    }
}
