-- Format 1. The journals and the inbox are the truth; the rest follows from them.

CREATE TABLE modules (
    digest   BLOB PRIMARY KEY,
    name     TEXT NOT NULL,
    added_at INTEGER NOT NULL,
    bytes    BLOB NOT NULL
) STRICT;

CREATE TABLE runs (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,   -- what users call its id
    key        TEXT UNIQUE,
    workflow   TEXT NOT NULL,
    module     BLOB NOT NULL,
    labels     TEXT NOT NULL,          -- JSON: [[key, value], ...]
    parent     TEXT,
    created_at INTEGER NOT NULL,
    state      TEXT NOT NULL,
    outcome    BLOB,                   -- CBOR, as in the journal
    wait_until INTEGER,
    wait_for   TEXT,                   -- JSON: [signal name, ...]; null while it is not parked
    phase      TEXT,
    emissions  INTEGER NOT NULL DEFAULT 0,
    epoch      INTEGER NOT NULL,
    owner_host TEXT,                   -- null while nobody has it
    owner_pid  INTEGER,
    owner_start INTEGER,
    lease_until INTEGER
) STRICT;

-- One row for each commit of a run.
CREATE TABLE journal (
    id    INTEGER PRIMARY KEY,
    run   INTEGER NOT NULL,
    seq   INTEGER NOT NULL,            -- the position of the first entry
    count INTEGER NOT NULL,
    at    INTEGER NOT NULL,            -- the time of the last entry
    head  BLOB NOT NULL,               -- of the chain after the last entry
    body  BLOB NOT NULL,
    UNIQUE (run, seq)
) STRICT;

-- A message that was taken keeps its row if it has an id to be deduplicated by.
CREATE TABLE inbox (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    run    INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    name   TEXT,                       -- of a signal
    text   TEXT,                       -- a signal's payload, a cancel's reason
    dedupe TEXT,
    taken  INTEGER NOT NULL DEFAULT 0,
    UNIQUE (run, dedupe)
) STRICT;
CREATE INDEX inbox_waiting ON inbox (run, id) WHERE taken = 0;

CREATE TABLE logs (
    run     INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    level   INTEGER NOT NULL,
    message TEXT NOT NULL,
    fields  TEXT NOT NULL,             -- JSON: [[key, value], ...]
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE state (
    run   INTEGER NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;
