UPDATE command SET serial_key = json_extract(spec_json, '$.serial_key');

-- A command is counted for as long as it has ended, whatever statement says so.

CREATE TRIGGER command_made_ended AFTER INSERT ON command
WHEN NEW.finished_ms IS NOT NULL
BEGIN
    INSERT INTO command_tally (owner_id, bucket, status, commands) VALUES
    (NEW.workspace_id, NEW.created_ms / 21600000, NEW.status, 1),
    (NEW.machine_id, 0, NEW.status, 1)
    ON CONFLICT (owner_id, bucket, status) DO UPDATE SET commands = commands + 1; END;

CREATE TRIGGER command_changed_to_ended AFTER UPDATE OF finished_ms, status ON command
WHEN NEW.finished_ms IS NOT NULL
BEGIN
    INSERT INTO command_tally (owner_id, bucket, status, commands) VALUES
    (NEW.workspace_id, NEW.created_ms / 21600000, NEW.status, 1),
    (NEW.machine_id, 0, NEW.status, 1)
    ON CONFLICT (owner_id, bucket, status) DO UPDATE SET commands = commands + 1; END;

CREATE TRIGGER command_changed_from_ended AFTER UPDATE OF finished_ms, status ON command
WHEN OLD.finished_ms IS NOT NULL
BEGIN
    UPDATE command_tally SET commands = commands - 1
    WHERE status = OLD.status AND (owner_id, bucket) IN (VALUES
        (OLD.workspace_id, OLD.created_ms / 21600000),
        (OLD.machine_id, 0)
    ); END;

CREATE TRIGGER command_deleted_ended AFTER DELETE ON command
WHEN OLD.finished_ms IS NOT NULL
BEGIN
    UPDATE command_tally SET commands = commands - 1
    WHERE status = OLD.status AND (owner_id, bucket) IN (VALUES
        (OLD.workspace_id, OLD.created_ms / 21600000),
        (OLD.machine_id, 0)
    ); END;
