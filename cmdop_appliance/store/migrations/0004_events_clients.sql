-- What happened, in order, for who follows it; and who has attached to a session.
-- seq counts the events of a workspace, without gaps, in the order in which they were committed.

ALTER TABLE workspace ADD COLUMN event_seq BIGINT NOT NULL DEFAULT 0;

CREATE TABLE event (
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    seq BIGINT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    machine_id TEXT,
    data_json TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (workspace_id, seq)
);

CREATE INDEX event_by_age ON event (created_ms);

CREATE TABLE client (
    session_id TEXT NOT NULL REFERENCES session (id),
    id TEXT NOT NULL,
    api_key_id TEXT NOT NULL,
    caller_email TEXT NOT NULL,
    mode TEXT NOT NULL CHECK (mode IN ('operator', 'observer')),
    attached_ms BIGINT NOT NULL,
    PRIMARY KEY (session_id, id)
);
