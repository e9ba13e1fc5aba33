-- How much of a stream is kept. What began before there was a cap ends without one.
ALTER TABLE output ADD COLUMN max_bytes BIGINT NOT NULL DEFAULT 4611686018427387904;
