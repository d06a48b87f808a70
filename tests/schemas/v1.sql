CREATE TABLE credentials (
    credential_set TEXT NOT NULL,
    provider       TEXT NOT NULL,
    data           TEXT NOT NULL,              -- JSON, opaque here
    PRIMARY KEY (credential_set, provider)
);
CREATE TABLE ssh_keys (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    key_type     TEXT    NOT NULL CHECK (key_type IN ('ed25519','rsa')),
    private_der    BLOB    NOT NULL,
    public_blob  BLOB    NOT NULL,             -- SSH wire format
    comment      TEXT    NOT NULL DEFAULT '',
    fingerprint  TEXT    NOT NULL UNIQUE,
    created_at   TEXT    NOT NULL DEFAULT (datetime('now'))
);
CREATE TABLE ssh_key_assignments (
    scope        TEXT    NOT NULL,
    key_id       INTEGER NOT NULL REFERENCES ssh_keys(id) ON DELETE CASCADE,
    assigned_at  TEXT    NOT NULL DEFAULT (datetime('now')),
    PRIMARY KEY (scope, key_id)
);
CREATE TABLE proxy_tokens (
    token          TEXT PRIMARY KEY,
    scope          TEXT NOT NULL,
    task        TEXT NOT NULL,
    credential_set TEXT NOT NULL,
    provider       TEXT NOT NULL
);
