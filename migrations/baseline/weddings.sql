-- Weddings with their plans, transactions, steps, events, and the references that find a wedding again.

CREATE TABLE weddings (
    id text NOT NULL,
    organization_id text NOT NULL,
    reference text NOT NULL,
    status text NOT NULL,
    phase text NOT NULL,
    mode text NOT NULL,
    ceremony_local text NOT NULL,
    zone text NOT NULL,
    ceremony_at timestamptz NOT NULL,
    plan_version integer NOT NULL,
    event_seq bigint NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 0,
    run_id text,
    run_epoch bigint NOT NULL DEFAULT 0,
    transaction_seq integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    ended_at timestamptz,
    CONSTRAINT pk_weddings PRIMARY KEY (id),
    CONSTRAINT uq_weddings_organization_id_reference UNIQUE (organization_id, reference),
    CONSTRAINT uq_weddings_organization_id_id UNIQUE (organization_id, id),
    CONSTRAINT fk_weddings_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);

CREATE TABLE plans (
    organization_id text NOT NULL,
    wedding_id text NOT NULL,
    version integer NOT NULL,
    body jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    transaction_id text,
    CONSTRAINT pk_plans PRIMARY KEY (wedding_id, version),
    CONSTRAINT fk_plans_organization_id_wedding_id_weddings FOREIGN KEY (organization_id, wedding_id)
        REFERENCES weddings(organization_id, id)
);

CREATE TABLE transactions (
    id text NOT NULL,
    organization_id text NOT NULL,
    wedding_id text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    gaps jsonb NOT NULL,
    request jsonb NOT NULL,
    step_ids jsonb NOT NULL,
    result jsonb,
    error jsonb,
    requested_at timestamptz NOT NULL,
    handed_off_at timestamptz,
    traceparent text,
    started_at timestamptz,
    ended_at timestamptz,
    run_id text,
    version bigint NOT NULL DEFAULT 0,
    CONSTRAINT pk_transactions PRIMARY KEY (id),
    CONSTRAINT fk_transactions_organization_id_wedding_id_weddings FOREIGN KEY (organization_id, wedding_id)
        REFERENCES weddings(organization_id, id)
);
CREATE INDEX ix_transactions_untold ON transactions (requested_at) WHERE handed_off_at IS NULL;
CREATE INDEX ix_transactions_wedding ON transactions (wedding_id, id);

CREATE TABLE steps (
    organization_id text NOT NULL,
    wedding_id text NOT NULL,
    step_id text NOT NULL,
    position integer NOT NULL,
    transaction_id text,
    service text NOT NULL,
    capability text NOT NULL,
    action text NOT NULL,
    status text NOT NULL,
    vendor text,
    fallback_used boolean NOT NULL DEFAULT false,
    attempts integer NOT NULL DEFAULT 0,
    external_id text,
    due_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    error jsonb,
    compensation jsonb,
    version bigint NOT NULL DEFAULT 0,
    CONSTRAINT pk_steps PRIMARY KEY (wedding_id, step_id),
    CONSTRAINT fk_steps_organization_id_wedding_id_weddings FOREIGN KEY (organization_id, wedding_id)
        REFERENCES weddings(organization_id, id)
);

CREATE TABLE external_refs (
    organization_id text NOT NULL,
    vendor text NOT NULL,
    account text NOT NULL,
    object_id text NOT NULL,
    wedding_id text NOT NULL,
    step_id text NOT NULL,
    transaction_id text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_external_refs PRIMARY KEY (vendor, object_id, wedding_id),
    CONSTRAINT fk_external_refs_organization_id_wedding_id_weddings FOREIGN KEY (organization_id, wedding_id)
        REFERENCES weddings(organization_id, id)
);
CREATE INDEX ix_external_refs_wedding_id ON external_refs (wedding_id);

CREATE TABLE contact_refs (
    organization_id text NOT NULL,
    digest bytea NOT NULL,
    wedding_id text NOT NULL,
    contact_id text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_contact_refs PRIMARY KEY (digest, wedding_id, contact_id),
    CONSTRAINT fk_contact_refs_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id),
    CONSTRAINT fk_contact_refs_wedding_id_weddings FOREIGN KEY (wedding_id) REFERENCES weddings(id)
);
CREATE INDEX ix_contact_refs_wedding_id ON contact_refs (wedding_id);

CREATE TABLE wedding_events (
    organization_id text NOT NULL,
    wedding_id text NOT NULL,
    id bigint NOT NULL,
    type text NOT NULL,
    data jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_wedding_events PRIMARY KEY (wedding_id, id),
    CONSTRAINT fk_wedding_events_organization_id_wedding_id_weddings FOREIGN KEY (organization_id, wedding_id)
        REFERENCES weddings(organization_id, id)
);
