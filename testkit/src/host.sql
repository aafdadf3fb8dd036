-- The database of a host application as it was before Trueup: users who pay by columns, an older inbox of webhooks, and what belongs to both.
-- `propiq` is the prefix of its usage columns; older copies have another.
CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email varchar(255) UNIQUE NOT NULL,
    password_hash varchar(255) NOT NULL,
    full_name varchar(255),
    subscription_tier varchar(50) DEFAULT 'free' CHECK (subscription_tier IN ('free', 'starter', 'pro', 'elite')),
    subscription_status varchar(50) DEFAULT 'active',
    subscription_stripe_customer_id varchar(255),
    subscription_stripe_subscription_id varchar(255),
    propiq_usage_count integer DEFAULT 0,
    propiq_usage_limit integer DEFAULT 5,
    propiq_last_reset_date timestamp DEFAULT now(),
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now(),
    last_login timestamp
);
CREATE INDEX idx_users_email ON users (email);
CREATE INDEX idx_users_subscription ON users (subscription_tier, subscription_status);
CREATE INDEX idx_users_last_login ON users (last_login DESC);
CREATE FUNCTION host_touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END $$;
CREATE TRIGGER users_touched BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION host_touched();

CREATE TABLE property_analyses (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    address text NOT NULL,
    analysis_result jsonb NOT NULL,
    wandb_run_id varchar(255),
    created_at timestamp DEFAULT now()
);
CREATE INDEX idx_property_analyses_user ON property_analyses (user_id);

CREATE TABLE support_chats (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    conversation_id varchar(255) NOT NULL,
    message text NOT NULL,
    role varchar(20) NOT NULL CHECK (role IN ('user', 'assistant')),
    metadata jsonb DEFAULT '{}',
    created_at timestamp DEFAULT now()
);

CREATE TABLE stripe_webhooks (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    event_id varchar(255) UNIQUE NOT NULL,
    event_type varchar(100) NOT NULL,
    payload jsonb NOT NULL,
    processed boolean DEFAULT false,
    processing_status varchar(50) DEFAULT 'pending' CHECK (processing_status IN ('pending', 'processing', 'completed', 'failed')),
    processing_attempts integer DEFAULT 0,
    processing_error text,
    user_id uuid REFERENCES users (id) ON DELETE SET NULL,
    stripe_customer_id varchar(255),
    processed_at timestamp,
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now()
);
CREATE INDEX idx_stripe_webhooks_event_id ON stripe_webhooks (event_id);
CREATE INDEX idx_stripe_webhooks_status ON stripe_webhooks (processing_status, created_at DESC);
CREATE INDEX stripe_webhooks_by_day ON stripe_webhooks (created_at) WHERE processed;

CREATE FUNCTION get_or_create_webhook(p_event_id varchar, p_event_type varchar, p_payload jsonb)
RETURNS TABLE (webhook_id uuid, already_processed boolean) LANGUAGE plpgsql AS $$ BEGIN
    RETURN QUERY INSERT INTO stripe_webhooks AS w (event_id, event_type, payload) VALUES (p_event_id, p_event_type, p_payload)
        ON CONFLICT (event_id) DO UPDATE SET updated_at = now() RETURNING w.id, w.processed;
END $$;
CREATE FUNCTION get_webhook_stats(p_hours integer DEFAULT 24) RETURNS TABLE (event_type varchar, total bigint) LANGUAGE sql STABLE AS
    $$ SELECT w.event_type, count(*) FROM stripe_webhooks AS w GROUP BY 1 $$;

ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE stripe_webhooks ENABLE ROW LEVEL SECURITY;
ALTER TABLE property_analyses ENABLE ROW LEVEL SECURITY;
