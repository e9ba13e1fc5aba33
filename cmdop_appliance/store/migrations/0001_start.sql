-- The first schema. Subset common to SQLite and PostgreSQL; times are ms since 1970 UTC.

CREATE TABLE setting (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE workspace (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL
);

CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    name TEXT NOT NULL,
    key_hash TEXT NOT NULL UNIQUE,
    key_prefix TEXT NOT NULL,
    scopes_json TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT
);

CREATE TABLE enrolment (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    secret_hash TEXT NOT NULL UNIQUE,
    tags_json TEXT NOT NULL,
    max_uses BIGINT NOT NULL CHECK (max_uses > 0),
    uses BIGINT NOT NULL CHECK (uses BETWEEN 0 AND max_uses),
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);

-- A removed machine keeps its row: its key must stay refused, and its commands name it.
CREATE TABLE machine (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    name TEXT NOT NULL,
    public_key BYTEA NOT NULL UNIQUE,
    enrolment_id TEXT NOT NULL,
    tags_json TEXT NOT NULL,
    hostname TEXT NOT NULL,
    facts_json TEXT NOT NULL,
    ip TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    last_seen_ms BIGINT NOT NULL,
    clone_seen_ms BIGINT,
    removed_ms BIGINT
);

CREATE INDEX machine_by_workspace ON machine (workspace_id, created_ms, id) WHERE removed_ms IS NULL;

CREATE TABLE session (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    machine_id TEXT NOT NULL REFERENCES machine (id),
    machine_hostname TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN (
        'PENDING', 'CONNECTED', 'BACKGROUND', 'GRACE_PERIOD', 'DISCONNECTED', 'ERROR'
    )),
    epoch BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    connected_ms BIGINT,
    last_heartbeat_ms BIGINT,
    grace_until_ms BIGINT,
    ended_ms BIGINT,
    telemetry_json TEXT,
    sampled_ms BIGINT
);

-- A machine has at most one session that is not over.
CREATE UNIQUE INDEX session_current ON session (machine_id)
WHERE status NOT IN ('DISCONNECTED', 'ERROR');

CREATE INDEX session_by_workspace ON session (workspace_id, created_ms, id);

CREATE INDEX session_in_grace ON session (grace_until_ms) WHERE status = 'GRACE_PERIOD';

CREATE TABLE command (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    machine_id TEXT NOT NULL REFERENCES machine (id),
    session_id TEXT NOT NULL REFERENCES session (id),
    command TEXT NOT NULL,
    spec_json TEXT NOT NULL,
    spec_hash BYTEA NOT NULL,
    status TEXT NOT NULL CHECK (status IN (
        'pending', 'running', 'completed', 'failed', 'cancelled', 'timeout', 'lost', 'expired'
    )),
    operator TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    start_until_ms BIGINT NOT NULL,
    is_awaited BIGINT NOT NULL,
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

CREATE INDEX command_by_workspace ON command (workspace_id, created_ms, id);

CREATE INDEX command_by_machine ON command (machine_id, created_ms, id);

CREATE INDEX command_by_session ON command (session_id, created_ms, id);

CREATE INDEX command_open ON command (machine_id, created_ms, id)
WHERE status IN ('pending', 'running');

-- What the hub holds for certain of a stream: `content` when it is small, else a file's length.
CREATE TABLE output (
    command_id TEXT NOT NULL REFERENCES command (id),
    stream TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr')),
    stored_bytes BIGINT NOT NULL,
    content BYTEA,
    PRIMARY KEY (command_id, stream)
);

INSERT INTO workspace (id, namespace, created_ms) VALUES ('ws_default', 'default', 0);
