-- Users whose usage window is over; psql variable `users`: how many. Of each twenty, sixteen pay nothing, three are billed monthly (two of
-- them renewed, by an event that made them due) and one yearly. Ids are spread like random ones, and the same in every run.
\set ON_ERROR_STOP on
BEGIN;
CREATE TEMPORARY TABLE made ON COMMIT DROP AS
SELECT n, md5('user ' || n)::uuid AS id, n % 20 AS kind, n % 7 AS used,
    date_trunc('month', now(), 'UTC') AS month,
    date_trunc('second', now()) AS now,
    -- How long ago the window ended, in days, and in which month of its year a yearly subscription is.
    n % 25 + 1 AS days, n % 11 + 1 AS months
FROM generate_series(1, :users) AS n;

CREATE TEMPORARY TABLE timed ON COMMIT DROP AS
SELECT m.*, CASE WHEN kind < 16 THEN 'free' ELSE 'sub_' || n END AS source,
    a.anchor,
    CASE WHEN kind < 16 THEN month - interval '1 month' WHEN kind < 19 THEN a.anchor
        ELSE a.anchor + make_interval(months => months - 1) END AS starts,
    CASE WHEN kind < 16 THEN month WHEN kind < 19 THEN a.anchor + interval '1 month'
        ELSE a.anchor + make_interval(months => months) END AS ends,
    kind IN (16, 17) AS renewed
FROM made AS m CROSS JOIN LATERAL (
    SELECT CASE WHEN kind < 19 THEN now - make_interval(months => 1, days => days)
        ELSE now - make_interval(months => months, days => days) END AS anchor
) AS a;

INSERT INTO users (id, email, full_name, subscription_tier, subscription_access, subscription_stripe_customer_id,
    subscription_stripe_subscription_id, subscription_current_period_end, usage_count, usage_limit, usage_period_start,
    usage_period_end, usage_source, rolls_at)
SELECT id, 'user' || n || '@example.com', 'User ' || n, CASE WHEN kind < 16 THEN 'free' ELSE 'pro' END, kind >= 16,
    CASE WHEN kind >= 16 THEN 'cus_' || n END, CASE WHEN kind >= 16 THEN 'sub_' || n END,
    CASE WHEN kind = 19 THEN anchor + interval '1 year' WHEN renewed THEN anchor + interval '2 months'
        WHEN kind = 18 THEN ends END,
    used, CASE WHEN kind < 16 THEN 5 ELSE 100 END, starts, ends, source, CASE WHEN renewed THEN 'epoch' ELSE ends END
FROM timed;

INSERT INTO usage_periods (user_id, source, period_start, period_end, used, usage_limit, tier)
SELECT id, usage_source, usage_period_start, usage_period_end, usage_count, usage_limit, subscription_tier FROM users;

INSERT INTO subscriptions (id, user_id, stripe_customer_id, status, items, lookup_key, interval, interval_count, currency, quantity,
    billing_cycle_anchor, current_period_start, current_period_end, metadata, rank, version_at, version_kind, version_event_id,
    stripe_created_at)
SELECT source, id, 'cus_' || n, 'active',
    jsonb_build_array(jsonb_build_object('id', 'si_' || n, 'price_id', 'price_pro', 'product_id', 'prod_pro', 'lookup_key', 'pro',
        'quantity', 1, 'interval', CASE WHEN kind = 19 THEN 'year' ELSE 'month' END, 'interval_count', 1)),
    'pro', CASE WHEN kind = 19 THEN 'year' ELSE 'month' END, 1, 'eur', 1, anchor,
    CASE WHEN renewed THEN anchor + interval '1 month' ELSE anchor END,
    CASE WHEN kind = 19 THEN anchor + interval '1 year' WHEN renewed THEN anchor + interval '2 months' ELSE ends END,
    jsonb_build_object('user_id', id), 3, anchor, 1, 'evt_' || n, anchor
FROM timed WHERE kind >= 16;
COMMIT;
VACUUM (ANALYZE) users, usage_periods, subscriptions;
