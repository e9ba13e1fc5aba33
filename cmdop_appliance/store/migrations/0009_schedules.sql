-- Cron rules, and the history row of each firing.

-- next_ms: the first instant that is not decided yet, null when disabled; decided_ms: the wall
-- clock when that was worked out. Exactly one of machine_id, machine_ids_json, tags_json is there.
CREATE TABLE schedule (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    machine_id TEXT,
    machine_ids_json TEXT,
    tags_json TEXT,
    command TEXT NOT NULL,
    spec_json TEXT NOT NULL,
    cron TEXT NOT NULL,
    timezone TEXT NOT NULL,
    is_enabled BIGINT NOT NULL,
    overlap TEXT NOT NULL CHECK (overlap IN ('skip', 'queue', 'allow', 'cancel_previous')),
    misfire TEXT NOT NULL CHECK (misfire IN ('run_once', 'skip')),
    misfire_window_ms BIGINT NOT NULL,
    notify_json TEXT NOT NULL,
    operator TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    next_ms BIGINT,
    decided_ms BIGINT NOT NULL,
    last_run_id TEXT,
    CHECK ((machine_id IS NULL) + (machine_ids_json IS NULL) + (tags_json IS NULL) = 2),
    CHECK (is_enabled = 1 OR next_ms IS NULL)
);

CREATE INDEX schedule_by_age ON schedule (workspace_id, created_ms, id);

CREATE INDEX schedule_due ON schedule (next_ms, id);

CREATE INDEX schedule_ahead ON schedule (decided_ms);

-- The machines it names, one or many, and the tags that a machine of its group carries.
CREATE TABLE schedule_machine (
    schedule_id TEXT NOT NULL REFERENCES schedule (id),
    machine_id TEXT NOT NULL REFERENCES machine (id),
    PRIMARY KEY (schedule_id, machine_id)
);

CREATE INDEX schedule_by_machine ON schedule_machine (machine_id);

CREATE TABLE schedule_tag (
    schedule_id TEXT NOT NULL REFERENCES schedule (id),
    tag TEXT NOT NULL,
    PRIMARY KEY (schedule_id, tag)
);

CREATE INDEX machine_by_tag ON machine_tag (tag, machine_id);

-- The unique key is the claim of a firing: no instant of a schedule comes twice. claim_ms is
-- scheduled_ms, until a clock that was ahead is set back before it, and nothing had run. What was
-- asked for by hand has no instant; first_run_id is the first run of that request.
-- What is left of a schedule that was deleted is forgotten bit by bit.
CREATE TABLE run (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    schedule_id TEXT NOT NULL,
    scheduled_ms BIGINT,
    claim_ms BIGINT,
    position BIGINT NOT NULL,
    first_ms BIGINT,
    first_run_id TEXT,
    machine_id TEXT,
    command_id TEXT,
    status TEXT NOT NULL CHECK (status IN ('started', 'missed', 'skipped')),
    reason TEXT,
    message TEXT,
    is_ahead BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    CHECK ((status = 'started') = (command_id IS NOT NULL)),
    CHECK ((status = 'started') = (reason IS NULL)),
    UNIQUE (schedule_id, claim_ms, position)
);

CREATE INDEX run_by_instant ON run (schedule_id, scheduled_ms);

CREATE INDEX run_by_schedule ON run (schedule_id, created_ms, id, machine_id);

CREATE INDEX run_by_age ON run (created_ms);

-- Schedules that were deleted, for as long as runs of theirs are left to be forgotten.
CREATE TABLE schedule_gone (id TEXT PRIMARY KEY);

-- Which schedule a command came from, and for which run.
ALTER TABLE command ADD COLUMN schedule_id TEXT;

ALTER TABLE command ADD COLUMN run_id TEXT;

CREATE INDEX command_of_schedule ON command (schedule_id, machine_id, created_ms, id)
WHERE schedule_id IS NOT NULL AND status IN ('pending', 'running');
