-- The limits of each account at a vendor, and its present quota.

CREATE TABLE quota_policies (
    service text NOT NULL,
    account text NOT NULL,
    policy jsonb NOT NULL,
    updated_at timestamptz NOT NULL,
    updated_by text NOT NULL,
    CONSTRAINT pk_quota_policies PRIMARY KEY (service, account)
);

CREATE TABLE quotas (
    service text NOT NULL,
    account text NOT NULL,
    version bigint NOT NULL,
    nonce text NOT NULL,
    state jsonb NOT NULL,
    CONSTRAINT pk_quotas PRIMARY KEY (service, account)
) WITH (fillfactor = 20);
