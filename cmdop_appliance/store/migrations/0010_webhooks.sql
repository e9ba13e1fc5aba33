-- Who is told of events, and what they are to be told: entered with the event itself.

-- tags_json: of the key that made it; it hears of machines only that carry them all. seq counts its
-- deliveries. failing_since_ms: nothing was taken since then, and something was tried every day.
-- failed_ms: its last failure. resume_ms: while it fails, nothing is tried before.
CREATE TABLE webhook (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    url TEXT NOT NULL,
    events_json TEXT NOT NULL,
    secret TEXT NOT NULL,
    preset TEXT,
    headers_json TEXT NOT NULL,
    description TEXT NOT NULL,
    tags_json TEXT NOT NULL,
    is_enabled BIGINT NOT NULL,
    disabled_reason TEXT,
    seq BIGINT NOT NULL,
    failing_since_ms BIGINT,
    failed_ms BIGINT,
    resume_ms BIGINT,
    succeeded_ms BIGINT,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    CHECK (is_enabled = 0 OR disabled_reason IS NULL)
);

CREATE INDEX webhook_by_age ON webhook (workspace_id, created_ms, id);

CREATE INDEX webhook_enabled ON webhook (workspace_id) WHERE is_enabled = 1;

-- A webhook that was disabled, deleted or sent elsewhere, as long as some of its deliveries are to
-- be ended, dropped or hastened for that.
CREATE TABLE webhook_leftover (
    webhook_id TEXT PRIMARY KEY
);

-- One event for one webhook. attempts: since it was last put in line; tried: in all.
-- next_attempt_ms: null while an earlier one of the same webhook and subject is pending.
CREATE TABLE delivery (
    id TEXT PRIMARY KEY,
    webhook_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    data_json TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'delivered', 'dead')),
    reason TEXT,
    attempts BIGINT NOT NULL,
    tried BIGINT NOT NULL,
    next_attempt_ms BIGINT,
    created_ms BIGINT NOT NULL,
    ended_ms BIGINT,
    CHECK ((status = 'pending') = (ended_ms IS NULL)),
    CHECK ((status = 'dead') = (reason IS NOT NULL)),
    CHECK (status = 'pending' OR next_attempt_ms IS NULL)
);

CREATE INDEX delivery_due ON delivery (webhook_id, next_attempt_ms)
WHERE next_attempt_ms IS NOT NULL AND seq > 0;

CREATE INDEX delivery_test ON delivery (webhook_id) WHERE next_attempt_ms IS NOT NULL AND seq = 0;

CREATE INDEX delivery_in_line ON delivery (webhook_id, subject, seq) WHERE status = 'pending';

CREATE INDEX delivery_by_seq ON delivery (webhook_id, seq);

CREATE INDEX delivery_by_age ON delivery (webhook_id, created_ms, id);

CREATE INDEX delivery_ended ON delivery (status, ended_ms) WHERE ended_ms IS NOT NULL;

-- One POST of a delivery. An excerpt is kept of what public receivers answer, and of no others.
CREATE TABLE attempt (
    delivery_id TEXT NOT NULL REFERENCES delivery (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    response_status BIGINT,
    error TEXT,
    excerpt TEXT,
    PRIMARY KEY (delivery_id, number)
);
