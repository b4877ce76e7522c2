-- The status of each service, and how it has changed.

CREATE TABLE service_health (
    service text NOT NULL,
    status text NOT NULL,
    since timestamptz NOT NULL,
    checked_at timestamptz,
    error_rate double precision NOT NULL,
    response_ms double precision NOT NULL,
    failures_in_row integer NOT NULL DEFAULT 0,
    successes_in_row integer NOT NULL DEFAULT 0,
    error_count bigint NOT NULL DEFAULT 0,
    detail text NOT NULL DEFAULT '',
    due_at timestamptz NOT NULL,
    samples jsonb NOT NULL DEFAULT '[]',
    concerns jsonb NOT NULL DEFAULT '[]',
    CONSTRAINT pk_service_health PRIMARY KEY (service)
);

CREATE TABLE health_changes (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    service text NOT NULL,
    from_status text,
    status text NOT NULL,
    at timestamptz NOT NULL,
    error_rate double precision NOT NULL,
    response_ms double precision NOT NULL,
    detail text NOT NULL DEFAULT '',
    source text NOT NULL DEFAULT 'probe',
    CONSTRAINT pk_health_changes PRIMARY KEY (id)
);
CREATE INDEX ix_health_changes_service ON health_changes (service, at);
CREATE INDEX ix_health_changes_source ON health_changes (service, source, at);
