-- Organizations, their API keys, the audit log, and the recorded answers of repeated requests.

CREATE TABLE organizations (
    id text NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_organizations PRIMARY KEY (id)
);

CREATE TABLE api_keys (
    id text NOT NULL,
    organization_id text NOT NULL,
    name text NOT NULL,
    key_hmac bytea NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT uq_api_keys_key_hmac UNIQUE (key_hmac),
    CONSTRAINT fk_api_keys_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);
CREATE INDEX ix_api_keys_organization_id ON api_keys (organization_id);

CREATE TABLE audit_log (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    organization_id text NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb NOT NULL,
    CONSTRAINT pk_audit_log PRIMARY KEY (id),
    CONSTRAINT fk_audit_log_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);
CREATE INDEX ix_audit_log_at ON audit_log (at, id);
CREATE INDEX ix_audit_log_organization_at ON audit_log (organization_id, at, id);
CREATE INDEX ix_audit_log_subject ON audit_log (subject text_pattern_ops);

CREATE TABLE idempotency_keys (
    organization_id text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    status integer,
    headers jsonb,
    body jsonb,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_idempotency_keys PRIMARY KEY (organization_id, key),
    CONSTRAINT fk_idempotency_keys_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
