-- Webhooks in: sources with their secrets, the events received, counts of refusals, and reconciliations.

CREATE TABLE webhook_sources (
    id text NOT NULL,
    organization_id text NOT NULL,
    name text NOT NULL,
    path text NOT NULL,
    state text NOT NULL,
    config jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    account bytea,
    CONSTRAINT pk_webhook_sources PRIMARY KEY (id),
    CONSTRAINT uq_webhook_sources_organization_id_name UNIQUE (organization_id, name),
    CONSTRAINT uq_webhook_sources_path UNIQUE (path),
    CONSTRAINT fk_webhook_sources_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);

CREATE TABLE webhook_secrets (
    id text NOT NULL,
    organization_id text NOT NULL,
    source_id text NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    CONSTRAINT pk_webhook_secrets PRIMARY KEY (id),
    CONSTRAINT fk_webhook_secrets_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id),
    CONSTRAINT fk_webhook_secrets_source_id_webhook_sources FOREIGN KEY (source_id)
        REFERENCES webhook_sources(id) ON DELETE CASCADE
);
CREATE INDEX ix_webhook_secrets_source_id ON webhook_secrets (source_id);

CREATE TABLE inbox (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    organization_id text,
    source text NOT NULL,
    event_id text NOT NULL,
    state text NOT NULL DEFAULT 'received',
    priority integer NOT NULL DEFAULT 3,
    event jsonb NOT NULL,
    body bytea NOT NULL,
    wedding_id text,
    step_id text,
    attempts integer NOT NULL DEFAULT 0,
    error text,
    received_at timestamptz NOT NULL,
    due_at timestamptz,
    processed_at timestamptz,
    contacts bytea[],
    replay_key bytea,
    first_looked_at timestamptz,
    CONSTRAINT pk_inbox PRIMARY KEY (id),
    CONSTRAINT uq_inbox_source_event_id UNIQUE (source, event_id),
    CONSTRAINT fk_inbox_organization_id_organizations FOREIGN KEY (organization_id) REFERENCES organizations(id)
);
CREATE INDEX ix_inbox_attention ON inbox (state, id) WHERE state IN ('unmatched', 'retrying', 'dead');
CREATE UNIQUE INDEX ix_inbox_replay_key ON inbox (source, replay_key) WHERE replay_key IS NOT NULL;
CREATE INDEX ix_inbox_source_received_at ON inbox (source, received_at);
CREATE INDEX ix_inbox_waiting ON inbox (priority, received_at) WHERE due_at IS NOT NULL;

CREATE TABLE webhook_counts (
    organization_id text,
    source text NOT NULL,
    reason text NOT NULL,
    hour timestamptz NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT pk_webhook_counts PRIMARY KEY (source, reason, hour),
    CONSTRAINT fk_webhook_counts_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);

CREATE TABLE webhook_checks (
    organization_id text,
    source text NOT NULL,
    checked_until timestamptz NOT NULL,
    checked_at timestamptz NOT NULL,
    looked_at bigint NOT NULL,
    gaps bigint NOT NULL,
    CONSTRAINT pk_webhook_checks PRIMARY KEY (source),
    CONSTRAINT fk_webhook_checks_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);

CREATE TABLE webhook_objects (
    organization_id text,
    source text NOT NULL,
    object_id text NOT NULL,
    topic text NOT NULL,
    occurred_at timestamptz NOT NULL,
    event_id text NOT NULL,
    CONSTRAINT pk_webhook_objects PRIMARY KEY (source, object_id, topic),
    CONSTRAINT fk_webhook_objects_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);
