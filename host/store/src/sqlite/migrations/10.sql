-- Format 10: limits of agent calls that hold for all processes that share the file; bytes that runs need besides
-- their modules, and when modules were put there the last time.

-- Slots that sessions have; they go with them.
CREATE TABLE slots (
    session INTEGER NOT NULL,
    limits  TEXT NOT NULL,                 -- JSON: [[name, calls that it lets through], ...]
    used    INTEGER NOT NULL,              -- calls under way
    wants   INTEGER NOT NULL,              -- slots that it could use
    has     INTEGER NOT NULL,
    since   INTEGER NOT NULL,              -- when the first call that waits began to wait
    calls   TEXT NOT NULL,                 -- JSON: some of those under way
    waiting TEXT NOT NULL,                 -- JSON: some of those that wait
    PRIMARY KEY (session, limits)
) STRICT, WITHOUT ROWID;

-- Where the turns of a rate have come to, in microseconds: see `Turns`.
CREATE TABLE rates (
    name          TEXT PRIMARY KEY,
    full_at       INTEGER NOT NULL,
    behind        INTEGER NOT NULL,
    blocked_until INTEGER NOT NULL,
    seen          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Turns that steps wait for. One that was given back has no run, and its place as step.
CREATE TABLE turns (
    name     TEXT NOT NULL,
    run      TEXT NOT NULL,
    step     INTEGER NOT NULL,
    full_at  INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    interval INTEGER NOT NULL,
    PRIMARY KEY (name, run, step)
) STRICT, WITHOUT ROWID;
CREATE INDEX turns_order ON turns (name, full_at);
CREATE INDEX turns_run ON turns (run);

CREATE TABLE blobs (
    digest   BLOB PRIMARY KEY,             -- BLAKE3
    added_at INTEGER NOT NULL,
    bytes    BLOB NOT NULL
) STRICT;

-- When modules were put again, long after they were added: whoever puts one is about to begin a run of it, and it is not
-- removed as unused then. Apart from their bytes, which would have to be written again.
CREATE TABLE puts (
    digest BLOB PRIMARY KEY,
    at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
