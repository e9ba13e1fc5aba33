-- What was changed and what was refused; the hash of each entry covers that of the one before.
-- Nothing is referred to: an entry outlives what it names. 0005_audit.sqlite.sql refuses changes.

CREATE TABLE audit (
    seq BIGINT PRIMARY KEY NOT NULL CHECK (seq > 0),
    at_ms BIGINT NOT NULL,
    workspace_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    api_key_id TEXT,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('ok', 'refused')),
    details_json TEXT NOT NULL,
    hash BYTEA NOT NULL
);

-- Every filter finds its columns here, without the entries.
CREATE INDEX audit_by_workspace ON audit (
    workspace_id, at_ms, seq, action, actor, target, outcome
);

-- The newest entry of which a machine has told that it remembers it.
CREATE TABLE audit_witness (
    machine_id TEXT PRIMARY KEY REFERENCES machine (id),
    seq BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    seen_ms BIGINT NOT NULL
);
