-- Format 8: who may ask, what they did, and finding runs by what they are labelled with.

ALTER TABLE identity ADD COLUMN secret BLOB;  -- 32 random bytes that addresses for callbacks are made of
UPDATE identity SET secret = randomblob(32);

CREATE TABLE labels (
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    run   INTEGER NOT NULL,
    PRIMARY KEY (key, value, run)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO labels
    SELECT l.value ->> 0, l.value ->> 1, r.id FROM runs r, json_each(r.labels) l WHERE r.labels <> '[]';

CREATE INDEX runs_workflow ON runs (workflow, id);

CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,               -- the first part of the token, which is no secret
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL,                  -- see TokenKind
    hash       BLOB NOT NULL,                  -- BLAKE3 of the whole
    scopes     TEXT NOT NULL,                  -- JSON: [scope, ...]
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    used_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    who    TEXT NOT NULL,
    act    TEXT NOT NULL,
    target TEXT NOT NULL,
    result TEXT NOT NULL
) STRICT;

CREATE TABLE callbacks (
    token BLOB PRIMARY KEY,                    -- BLAKE3 of the address that was used
    body  BLOB NOT NULL,                       -- BLAKE3 of what came
    at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
