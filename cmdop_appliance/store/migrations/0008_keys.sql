-- What an API key is restricted to, and when it was used last.
ALTER TABLE api_key ADD COLUMN tags_json TEXT NOT NULL DEFAULT '[]';

ALTER TABLE api_key ADD COLUMN last_used_ms BIGINT;

ALTER TABLE api_key ADD COLUMN last_used_ip TEXT;

CREATE INDEX api_key_by_workspace ON api_key (workspace_id, created_ms, id);
