-- Commands that wait for their machine, in batches that go on in waves, asked for once.
-- session_id is null until a command may have been sent; SQLite changes no constraint in place.

CREATE TABLE batch (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    concurrency BIGINT NOT NULL CHECK (concurrency > 0),
    canary BIGINT NOT NULL CHECK (canary >= 0),
    max_errors BIGINT,
    refused_json TEXT NOT NULL,
    resumed_by TEXT REFERENCES batch (id),
    created_ms BIGINT NOT NULL
);

CREATE TABLE command_3 (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    machine_id TEXT NOT NULL REFERENCES machine (id),
    session_id TEXT REFERENCES session (id),
    batch_id TEXT REFERENCES batch (id),
    command TEXT NOT NULL,
    spec_json TEXT NOT NULL,
    spec_hash BYTEA NOT NULL,
    status TEXT NOT NULL CHECK (status IN (
        'pending', 'running', 'completed', 'failed', 'cancelled', 'timeout', 'lost', 'expired',
        'skipped'
    )),
    operator TEXT NOT NULL,
    supersede_key TEXT,
    created_ms BIGINT NOT NULL,
    start_until_ms BIGINT NOT NULL,
    is_bounded BIGINT NOT NULL,
    is_queued BIGINT NOT NULL,
    is_held BIGINT NOT NULL,
    is_late BIGINT NOT NULL,
    is_unknown_to_hub BIGINT NOT NULL,
    cancel_requested_ms BIGINT,
    started_ms BIGINT,
    finished_ms BIGINT,
    duration_ms BIGINT,
    exit_code BIGINT,
    signal TEXT,
    error_code TEXT,
    error_message TEXT,
    stdout_bytes BIGINT,
    stderr_bytes BIGINT,
    stdout_sha256 BYTEA,
    stderr_sha256 BYTEA,
    CHECK ((status IN ('pending', 'running')) = (finished_ms IS NULL))
);

INSERT INTO command_3
SELECT
    id, workspace_id, machine_id, session_id, NULL, command, spec_json, spec_hash, status, operator,
    NULL, created_ms, start_until_ms, is_awaited, 0, 0, 0, 0, cancel_requested_ms, started_ms,
    finished_ms, duration_ms, exit_code, signal, error_code, error_message, stdout_bytes,
    stderr_bytes, stdout_sha256, stderr_sha256
FROM command;

CREATE TABLE output_3 (
    command_id TEXT NOT NULL REFERENCES command_3 (id),
    stream TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr')),
    stored_bytes BIGINT NOT NULL,
    max_bytes BIGINT NOT NULL,
    content BYTEA,
    PRIMARY KEY (command_id, stream)
);

INSERT INTO output_3 SELECT command_id, stream, stored_bytes, max_bytes, content FROM output;

DROP TABLE output;

DROP TABLE command;

ALTER TABLE command_3 RENAME TO command;

ALTER TABLE output_3 RENAME TO output;

CREATE INDEX command_by_workspace ON command (workspace_id, created_ms, id);

CREATE INDEX command_by_machine ON command (machine_id, created_ms, id);

CREATE INDEX command_by_session ON command (session_id, created_ms, id);

CREATE INDEX command_by_batch ON command (batch_id, id) WHERE batch_id IS NOT NULL;

CREATE INDEX command_open ON command (machine_id, created_ms, id)
WHERE status IN ('pending', 'running');

CREATE INDEX command_silent ON command (machine_id) WHERE status = 'lost' AND error_code = 'silent';

CREATE INDEX command_unknown ON command (machine_id) WHERE is_unknown_to_hub = 1;

CREATE TABLE idempotency (
    api_key_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request_hash BYTEA NOT NULL,
    made_id TEXT NOT NULL,
    salt BYTEA NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (api_key_id, idempotency_key)
);

CREATE INDEX idempotency_by_age ON idempotency (created_ms);
