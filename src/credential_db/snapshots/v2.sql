CREATE TABLE credentials (
    credential_set TEXT NOT NULL,
    provider TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (credential_set, provider)
);
CREATE TABLE ssh_keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key_type TEXT NOT NULL,
    private_der BLOB NOT NULL,
    public_blob BLOB NOT NULL,
    comment TEXT DEFAULT '' NOT NULL,
    fingerprint TEXT NOT NULL,
    created_at TEXT DEFAULT (datetime('now')) NOT NULL,
    CHECK (key_type IN ('ed25519','rsa')),
    UNIQUE (fingerprint)
);
CREATE TABLE ssh_key_assignments (
    scope TEXT NOT NULL,
    key_id INTEGER NOT NULL,
    assigned_at TEXT DEFAULT (datetime('now')) NOT NULL,
    PRIMARY KEY (scope, key_id),
    FOREIGN KEY(key_id) REFERENCES ssh_keys (id) ON DELETE CASCADE
);
CREATE TABLE proxy_tokens (
    token TEXT,
    scope TEXT NOT NULL,
    subject TEXT NOT NULL,
    credential_set TEXT NOT NULL,
    provider TEXT NOT NULL,
    PRIMARY KEY (token)
);
