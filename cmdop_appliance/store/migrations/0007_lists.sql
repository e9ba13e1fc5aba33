-- What lists are filtered, sorted and counted by, so that a long one costs no more than a short one.

-- A machine's tags as rows: what a key that is restricted to tags may know of.
CREATE TABLE machine_tag (
    machine_id TEXT NOT NULL REFERENCES machine (id),
    tag TEXT NOT NULL,
    PRIMARY KEY (machine_id, tag)
);

INSERT INTO machine_tag
SELECT DISTINCT machine.id, tag.value FROM machine, json_each(machine.tags_json) AS tag;

CREATE INDEX session_by_machine ON session (workspace_id, machine_id, created_ms, id);

CREATE INDEX session_by_status ON session (workspace_id, status, created_ms, id);

CREATE INDEX session_by_hostname ON session (workspace_id, machine_hostname, created_ms, id);

CREATE INDEX session_by_connection ON session (workspace_id, connected_ms, id);

ALTER TABLE machine ADD COLUMN is_online BIGINT NOT NULL DEFAULT 0;

ALTER TABLE machine ADD COLUMN search_text TEXT NOT NULL DEFAULT '';

UPDATE machine SET
    is_online = (
        SELECT count(*) FROM session
        WHERE session.workspace_id = machine.workspace_id AND session.machine_id = machine.id
        AND session.status IN ('CONNECTED', 'BACKGROUND', 'GRACE_PERIOD')
    ),
    search_text = casefold(name || ' ' || hostname);

DROP INDEX machine_by_workspace;

-- With the columns of every filter, so that it is enough to count and to choose.
CREATE INDEX machine_by_age ON machine (
    workspace_id, removed_ms, created_ms, id, is_online, search_text, tags_json
);

CREATE INDEX machine_by_name ON machine (workspace_id, removed_ms, name, id);

CREATE INDEX machine_by_hostname ON machine (workspace_id, removed_ms, hostname, id);

CREATE INDEX machine_by_sight ON machine (workspace_id, removed_ms, last_seen_ms, id);

-- With the machine, so that a key that is restricted to tags passes over what it does not reach.
DROP INDEX command_by_workspace;

CREATE INDEX command_by_age ON command (workspace_id, created_ms, id, machine_id);

CREATE INDEX command_by_status ON command (workspace_id, status, created_ms, id, machine_id);

CREATE INDEX command_by_end ON command (workspace_id, finished_ms, id);

CREATE INDEX command_by_duration ON command (workspace_id, duration_ms, id);

-- The serial_key of its spec; of those that are there: 0007_lists.sqlite.sql.
ALTER TABLE command ADD COLUMN serial_key TEXT;

CREATE INDEX command_by_line ON command (machine_id, serial_key, created_ms, id)
WHERE serial_key IS NOT NULL;

-- How many commands have ended: of a workspace by the quarter of a day (UTC) in which they were
-- made, of a machine in one number (bucket 0). Triggers keep it: 0007_lists.sqlite.sql.
CREATE TABLE command_tally (
    owner_id TEXT NOT NULL,
    bucket BIGINT NOT NULL,
    status TEXT NOT NULL,
    commands BIGINT NOT NULL,
    PRIMARY KEY (owner_id, bucket, status)
);

INSERT INTO command_tally
SELECT workspace_id, created_ms / 21600000, status, count(*) FROM command
WHERE finished_ms IS NOT NULL GROUP BY workspace_id, created_ms / 21600000, status;

INSERT INTO command_tally
SELECT machine_id, 0, status, count(*) FROM command
WHERE finished_ms IS NOT NULL GROUP BY machine_id, status;
