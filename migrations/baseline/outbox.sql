-- Webhooks out: subscriptions, events, their deliveries and every attempt.

CREATE TABLE webhook_subscriptions (
    id text NOT NULL,
    organization_id text NOT NULL,
    url text NOT NULL,
    description text NOT NULL DEFAULT '',
    event_types jsonb NOT NULL,
    filters jsonb NOT NULL,
    secrets bytea NOT NULL,
    api_version text NOT NULL,
    payload text NOT NULL,
    ordered boolean NOT NULL DEFAULT false,
    rate_per_second double precision,
    max_attempts integer NOT NULL,
    backoff text NOT NULL,
    status text NOT NULL DEFAULT 'active',
    reason text,
    success_count bigint NOT NULL DEFAULT 0,
    failure_count bigint NOT NULL DEFAULT 0,
    last_delivery_at timestamptz,
    consecutive_failures integer NOT NULL DEFAULT 0,
    round integer NOT NULL DEFAULT 0,
    failing_since timestamptz,
    next_probe_at timestamptz,
    warned integer NOT NULL DEFAULT 0,
    pace_per_second double precision,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT pk_webhook_subscriptions PRIMARY KEY (id),
    CONSTRAINT fk_webhook_subscriptions_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);
CREATE INDEX ix_webhook_subscriptions_organization_id ON webhook_subscriptions (organization_id);

CREATE TABLE outgoing_events (
    id text NOT NULL,
    organization_id text NOT NULL,
    wedding_id text,
    sequence bigint,
    type text NOT NULL,
    data jsonb NOT NULL,
    occurred_at timestamptz NOT NULL,
    useful_until timestamptz,
    CONSTRAINT pk_outgoing_events PRIMARY KEY (id),
    CONSTRAINT fk_outgoing_events_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id),
    CONSTRAINT fk_outgoing_events_wedding_id_weddings FOREIGN KEY (wedding_id) REFERENCES weddings(id)
);
CREATE INDEX ix_outgoing_events_of_no_wedding ON outgoing_events (organization_id, id) WHERE wedding_id IS NULL;
CREATE INDEX ix_outgoing_events_organization_id ON outgoing_events (organization_id);

CREATE TABLE deliveries (
    id text NOT NULL,
    number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    organization_id text NOT NULL,
    subscription_id text NOT NULL,
    event_id text NOT NULL,
    wedding_id text,
    status text NOT NULL DEFAULT 'pending',
    attempts integer NOT NULL DEFAULT 0,
    tries integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    leased_until timestamptz,
    last_status integer,
    last_error text,
    created_at timestamptz NOT NULL,
    delivered_at timestamptz,
    CONSTRAINT pk_deliveries PRIMARY KEY (id),
    CONSTRAINT fk_deliveries_event_id_outgoing_events FOREIGN KEY (event_id) REFERENCES outgoing_events(id),
    CONSTRAINT fk_deliveries_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id),
    CONSTRAINT fk_deliveries_subscription_id_webhook_subscriptions FOREIGN KEY (subscription_id)
        REFERENCES webhook_subscriptions(id)
);
CREATE INDEX ix_deliveries_event_id ON deliveries (event_id);
CREATE INDEX ix_deliveries_open ON deliveries (subscription_id, wedding_id, number)
    WHERE status IN ('pending', 'retrying');
CREATE INDEX ix_deliveries_page ON deliveries (organization_id, id);
CREATE INDEX ix_deliveries_pending ON deliveries (subscription_id, due_at) WHERE status = 'pending';
CREATE INDEX ix_deliveries_retrying ON deliveries (subscription_id, due_at) WHERE status = 'retrying';
CREATE INDEX ix_deliveries_subscription ON deliveries (subscription_id, id);

CREATE TABLE delivery_attempts (
    organization_id text NOT NULL,
    delivery_id text NOT NULL,
    number integer NOT NULL,
    at timestamptz NOT NULL,
    duration_ms integer NOT NULL,
    status integer,
    response text NOT NULL DEFAULT '',
    error text,
    CONSTRAINT pk_delivery_attempts PRIMARY KEY (delivery_id, number),
    CONSTRAINT fk_delivery_attempts_delivery_id_deliveries FOREIGN KEY (delivery_id) REFERENCES deliveries(id),
    CONSTRAINT fk_delivery_attempts_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);
