-- Channels for operators, and the messages for them.

CREATE TABLE notification_channels (
    id text NOT NULL,
    organization_id text NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    target text NOT NULL,
    events jsonb NOT NULL,
    least_severity integer NOT NULL,
    dedup_seconds integer NOT NULL,
    secret bytea,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    CONSTRAINT pk_notification_channels PRIMARY KEY (id),
    CONSTRAINT fk_notification_channels_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);
CREATE INDEX ix_notification_channels_organization_id ON notification_channels (organization_id);

CREATE TABLE notifications (
    id text NOT NULL,
    organization_id text NOT NULL,
    channel_id text NOT NULL,
    dedup_key text NOT NULL,
    notice jsonb NOT NULL,
    repeats integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    ended_at timestamptz,
    error text,
    CONSTRAINT pk_notifications PRIMARY KEY (id),
    CONSTRAINT fk_notifications_channel_id_notification_channels FOREIGN KEY (channel_id)
        REFERENCES notification_channels(id) ON DELETE CASCADE,
    CONSTRAINT fk_notifications_organization_id_organizations FOREIGN KEY (organization_id)
        REFERENCES organizations(id)
);
CREATE INDEX ix_notifications_channel ON notifications (channel_id, dedup_key, created_at);
CREATE INDEX ix_notifications_due ON notifications (due_at) WHERE ended_at IS NULL;
