-- Versions of vendors' APIs, pins of services and organizations, migrations between versions.

CREATE TABLE vendor_versions (
    service text NOT NULL,
    name text NOT NULL,
    spec jsonb NOT NULL,
    updated_at timestamptz NOT NULL,
    updated_by text NOT NULL,
    CONSTRAINT pk_vendor_versions PRIMARY KEY (service, name)
);

CREATE TABLE version_pins (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    organization_id text,
    service text NOT NULL,
    version text NOT NULL,
    share_percent integer NOT NULL DEFAULT 100,
    since timestamptz NOT NULL,
    until timestamptz,
    migration_id text NOT NULL DEFAULT '',
    pinned_by text NOT NULL,
    CONSTRAINT pk_version_pins PRIMARY KEY (id),
    CONSTRAINT fk_version_pins_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);
CREATE INDEX ix_version_pins_until ON version_pins (until);

CREATE TABLE version_migrations (
    id text NOT NULL,
    organization_id text,
    service text NOT NULL,
    stage text NOT NULL,
    state jsonb NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    rollback_asked boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    started_by text NOT NULL,
    CONSTRAINT pk_version_migrations PRIMARY KEY (id),
    CONSTRAINT fk_version_migrations_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);
CREATE UNIQUE INDEX ix_version_migrations_live ON version_migrations (service, COALESCE(organization_id, ''))
    WHERE ended_at IS NULL;
