-- The load of machines over time: minutes, later rolled up into quarters of an hour.
-- Percentages are in hundredths of a percent. Bytes are null where nobody knows them.

CREATE TABLE metric (
    machine_id TEXT NOT NULL REFERENCES machine (id),
    at_ms BIGINT NOT NULL,
    step_ms BIGINT NOT NULL CHECK (step_ms IN (60000, 900000)),
    samples BIGINT NOT NULL,
    cpu_sum BIGINT NOT NULL,
    cpu_max BIGINT NOT NULL,
    memory_sum BIGINT NOT NULL,
    memory_max BIGINT NOT NULL,
    disk_sum BIGINT NOT NULL,
    disk_max BIGINT NOT NULL,
    network_rx_bytes BIGINT,
    network_tx_bytes BIGINT,
    PRIMARY KEY (machine_id, at_ms, step_ms)
);

CREATE INDEX metric_by_age ON metric (step_ms, at_ms, machine_id);

-- The sample of each machine that was counted last: none counts twice, and its counters are where
-- those of the next began.
CREATE TABLE metric_last (
    machine_id TEXT PRIMARY KEY REFERENCES machine (id),
    series BYTEA NOT NULL,
    number BIGINT NOT NULL,
    sampled_ms BIGINT NOT NULL,
    network_rx_bytes BIGINT NOT NULL,
    network_tx_bytes BIGINT NOT NULL,
    uptime_seconds BIGINT NOT NULL
);
