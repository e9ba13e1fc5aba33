-- Releases that the hub was given, for itself and for its machines.

-- manifest, signature: as they stand in the bundle. machine_ids_json: the only machines that get it,
-- or null: every one. hub_ms: when the hub itself ran it. reason: why it failed.
CREATE TABLE upgrade (
    id TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    released_ms BIGINT NOT NULL,
    manifest BYTEA NOT NULL,
    signature BYTEA NOT NULL,
    machine_ids_json TEXT,
    status TEXT NOT NULL CHECK (status IN ('hub', 'machines', 'completed', 'failed', 'superseded')),
    reason TEXT,
    operator TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    hub_ms BIGINT,
    finished_ms BIGINT,
    CHECK ((status IN ('hub', 'machines')) = (finished_ms IS NULL))
);

CREATE INDEX upgrade_by_age ON upgrade (created_ms, id);

CREATE UNIQUE INDEX upgrade_open ON upgrade ((1)) WHERE status IN ('hub', 'machines');

-- What became of it on a machine. wave: after the others with a smaller number. code, reason: why not.
CREATE TABLE machine_upgrade (
    upgrade_id TEXT NOT NULL REFERENCES upgrade (id),
    machine_id TEXT NOT NULL REFERENCES machine (id),
    wave BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (
        state IN (
            'waiting', 'offered', 'downloading', 'starting', 'healthy', 'refused', 'failed',
            'rolled_back'
        )
    ),
    code TEXT,
    reason TEXT,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (upgrade_id, machine_id)
);

CREATE INDEX machine_upgrade_of_machine ON machine_upgrade (machine_id);
