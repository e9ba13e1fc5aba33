-- PTYs on machines, held by their keepers: terminals, and coding sessions (HAPI's sessions).

-- what_json: what was asked for. is_ending: somebody wants it to end, and the machine is told until
-- it has. changed_ms: when status or is_waiting changed, last. end: how it ended. code, message: why,
-- of `failed` and `lost`.
CREATE TABLE terminal (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    machine_id TEXT NOT NULL REFERENCES machine (id),
    kind TEXT NOT NULL CHECK (kind IN ('terminal', 'coding_session')),
    name TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('starting', 'running', 'ended')),
    what_json TEXT NOT NULL,
    cols BIGINT NOT NULL,
    rows BIGINT NOT NULL,
    caller_email TEXT NOT NULL,
    is_recorded BIGINT NOT NULL,
    is_waiting BIGINT NOT NULL,
    is_ending BIGINT NOT NULL,
    directory TEXT,
    worktree_json TEXT,
    created_ms BIGINT NOT NULL,
    started_ms BIGINT,
    changed_ms BIGINT NOT NULL,
    ended_ms BIGINT,
    "end" TEXT CHECK ("end" IN ('exited', 'failed', 'cancelled', 'idle', 'lost')),
    exit_code BIGINT,
    signal TEXT,
    code TEXT,
    message TEXT,
    CHECK ((status = 'ended') = (ended_ms IS NOT NULL)),
    CHECK ((status = 'ended') = ("end" IS NOT NULL)),
    CHECK (status <> 'ended' OR is_waiting = 0)
);

CREATE UNIQUE INDEX terminal_named ON terminal (machine_id, name) WHERE status <> 'ended';

CREATE INDEX terminal_by_age ON terminal (workspace_id, created_ms, id);

CREATE INDEX terminal_of_machine ON terminal (machine_id, created_ms, id);

CREATE INDEX terminal_starting ON terminal (created_ms) WHERE status = 'starting';

CREATE INDEX terminal_ended ON terminal (machine_id, ended_ms) WHERE status = 'ended';

CREATE INDEX terminal_over ON terminal (ended_ms) WHERE status = 'ended';
