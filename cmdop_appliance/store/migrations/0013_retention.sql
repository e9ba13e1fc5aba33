-- What commands wrote is not kept for ever, and neither are they.
-- is_forgotten: the bytes are gone, their number stays. is_leftover: a file of theirs is to be deleted still.
ALTER TABLE output ADD COLUMN is_forgotten BIGINT NOT NULL DEFAULT 0;

ALTER TABLE output ADD COLUMN is_leftover BIGINT NOT NULL DEFAULT 0;

CREATE INDEX output_leftover ON output (command_id) WHERE is_leftover = 1;

-- The output of what ended up to then is forgotten.
ALTER TABLE workspace ADD COLUMN output_until_ms BIGINT NOT NULL DEFAULT 0;

CREATE INDEX batch_resumed ON batch (resumed_by) WHERE resumed_by IS NOT NULL;
