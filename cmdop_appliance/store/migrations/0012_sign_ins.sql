-- Browsers that act as an API key. They end with it.
-- secret_hash: of their cookie. expires_ms: when one ends at the latest; ends_ms: if it is not seen again.
CREATE TABLE sign_in (
    id TEXT PRIMARY KEY,
    api_key_id TEXT NOT NULL REFERENCES api_key (id) ON DELETE CASCADE,
    secret_hash TEXT NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL,
    last_seen_ms BIGINT NOT NULL,
    ip TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    ends_ms BIGINT NOT NULL
);

CREATE INDEX sign_in_of_key ON sign_in (api_key_id);

CREATE INDEX sign_in_by_end ON sign_in (ends_ms);
