-- Services and endpoints, circuits and probe permits, failovers, records of vendor calls, the newest answers to reads.

CREATE TABLE services (
    service text NOT NULL,
    config jsonb NOT NULL,
    version bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    updated_by text NOT NULL,
    CONSTRAINT pk_services PRIMARY KEY (service)
);

CREATE TABLE service_endpoints (
    service text NOT NULL,
    name text NOT NULL,
    position integer NOT NULL,
    base_url text NOT NULL,
    version text NOT NULL,
    region text NOT NULL,
    weight integer NOT NULL,
    capacity integer NOT NULL,
    dedicated boolean NOT NULL DEFAULT false,
    CONSTRAINT pk_service_endpoints PRIMARY KEY (service, name),
    CONSTRAINT fk_service_endpoints_service_services FOREIGN KEY (service)
        REFERENCES services(service) ON DELETE CASCADE
);

CREATE TABLE circuits (
    service text NOT NULL,
    endpoint text NOT NULL,
    state text NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,
    round bigint NOT NULL DEFAULT 0,
    trips integer NOT NULL DEFAULT 0,
    open_until timestamptz,
    stage integer NOT NULL DEFAULT 0,
    stage_since timestamptz,
    probes_ok integer NOT NULL DEFAULT 0,
    forced text,
    held boolean NOT NULL DEFAULT false,
    reason text NOT NULL DEFAULT '',
    "window" jsonb NOT NULL,
    failed_calls jsonb NOT NULL DEFAULT '[]',
    failed_probe text NOT NULL DEFAULT '',
    changed_at timestamptz,
    version bigint NOT NULL DEFAULT 0,
    noisy_from timestamptz,
    noisy_until timestamptz,
    CONSTRAINT pk_circuits PRIMARY KEY (service, endpoint)
);

CREATE TABLE probe_permits (
    service text NOT NULL,
    endpoint text NOT NULL,
    round bigint NOT NULL,
    slot integer NOT NULL,
    holder text,
    caller text NOT NULL DEFAULT '',
    leased_until timestamptz,
    outcome text,
    CONSTRAINT pk_probe_permits PRIMARY KEY (service, endpoint, round, slot),
    CONSTRAINT fk_probe_permits_service_endpoint_circuits FOREIGN KEY (service, endpoint)
        REFERENCES circuits(service, endpoint) ON DELETE CASCADE
);

CREATE TABLE failovers (
    id text NOT NULL,
    from_service text NOT NULL,
    endpoint text NOT NULL,
    epoch bigint NOT NULL,
    to_service text,
    reason text NOT NULL,
    strategy text NOT NULL,
    status text NOT NULL,
    actor text NOT NULL,
    affected_weddings integer,
    next_moment_at timestamptz,
    estimated_downtime_ms bigint NOT NULL,
    rollback_plan jsonb NOT NULL,
    started_at timestamptz NOT NULL,
    guarded_at timestamptz,
    restored_at timestamptz,
    fell_back integer NOT NULL DEFAULT 0,
    guard_due_at timestamptz,
    CONSTRAINT pk_failovers PRIMARY KEY (id)
);
CREATE INDEX ix_failovers_standing ON failovers (status) WHERE status NOT IN ('restored', 'superseded');
CREATE INDEX ix_failovers_started_at ON failovers (started_at);
CREATE UNIQUE INDEX uq_failovers_from_service_endpoint_epoch ON failovers (from_service, endpoint, epoch)
    WHERE status <> 'superseded';

CREATE TABLE failover_weddings (
    failover_id text NOT NULL,
    organization_id text NOT NULL,
    wedding_id text NOT NULL,
    ceremony_at timestamptz NOT NULL,
    CONSTRAINT pk_failover_weddings PRIMARY KEY (failover_id, wedding_id),
    CONSTRAINT fk_failover_weddings_failover_id_failovers FOREIGN KEY (failover_id)
        REFERENCES failovers(id) ON DELETE CASCADE,
    CONSTRAINT fk_failover_weddings_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);

CREATE TABLE vendor_calls (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    organization_id text NOT NULL,
    wedding_id text NOT NULL,
    transaction_id text NOT NULL,
    step_id text NOT NULL,
    service text NOT NULL,
    endpoint text NOT NULL,
    version text NOT NULL,
    operation text NOT NULL,
    ask text NOT NULL,
    outcome text NOT NULL,
    reason text,
    duration_ms double precision NOT NULL,
    at timestamptz NOT NULL,
    quota_left bigint,
    CONSTRAINT pk_vendor_calls PRIMARY KEY (id)
);
CREATE INDEX ix_vendor_calls_service ON vendor_calls (service, at);
CREATE INDEX ix_vendor_calls_wedding ON vendor_calls (organization_id, wedding_id, id);

CREATE TABLE read_answers (
    organization_id text NOT NULL,
    question text NOT NULL,
    vendor text NOT NULL,
    facts jsonb NOT NULL,
    answered_at timestamptz NOT NULL,
    CONSTRAINT pk_read_answers PRIMARY KEY (organization_id, question),
    CONSTRAINT fk_read_answers_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);
