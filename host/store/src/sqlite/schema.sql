-- What a new database is made of: the same as all migrations together, which a test compares. The journals and the
-- inbox are the truth; the rest follows from them.

CREATE TABLE modules (
    digest   BLOB PRIMARY KEY,             -- BLAKE3
    name     TEXT NOT NULL,
    added_at INTEGER NOT NULL,
    bytes    BLOB NOT NULL
) STRICT;
CREATE INDEX modules_name ON modules (name, added_at);

-- When modules were put again, long after they were added: whoever puts one is about to begin a run of it, and it is not
-- removed as unused then. Apart from their bytes, which would have to be written again.
CREATE TABLE puts (
    digest BLOB PRIMARY KEY,
    at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Bytes that runs need besides their modules.
CREATE TABLE blobs (
    digest   BLOB PRIMARY KEY,             -- BLAKE3
    added_at INTEGER NOT NULL,
    bytes    BLOB NOT NULL
) STRICT;

-- By which what is kept beside the database is told from what belongs to others.
CREATE TABLE identity (
    id     TEXT NOT NULL,                  -- random
    secret BLOB                            -- 32 random bytes that addresses for callbacks are made of
) STRICT;
INSERT INTO identity VALUES (lower(hex(randomblob(8))), randomblob(32));

-- Hosts.
CREATE TABLE sessions (
    id       INTEGER PRIMARY KEY,          -- random, never given out twice
    host     TEXT NOT NULL,
    realm    TEXT NOT NULL,                -- see Owner
    pid      INTEGER NOT NULL,
    started  INTEGER NOT NULL,
    lease_ms INTEGER NOT NULL,
    source   TEXT NOT NULL,                -- the clock of `ticks`
    ticks    INTEGER NOT NULL,             -- when it is over by that clock
    until    INTEGER NOT NULL              -- the same by the time of day, for those with another clock
) STRICT;

-- What is read most comes first, what may be large last.
CREATE TABLE runs (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT NOT NULL UNIQUE,      -- what users call its id
    epoch       INTEGER NOT NULL,
    session     INTEGER,                   -- who advances it; null while nobody does
    emissions   INTEGER NOT NULL DEFAULT 0,
    starts      INTEGER NOT NULL DEFAULT 0, -- claims since it came forward
    troubles    INTEGER NOT NULL DEFAULT 0, -- times that it could not be advanced since then
    stopping    INTEGER NOT NULL DEFAULT 0, -- 1: it was asked to stop
    state       TEXT NOT NULL,
    due_at      INTEGER,                   -- null if a session has it, or if only somebody's wish moves it
    wait_until  INTEGER,
    people      INTEGER NOT NULL DEFAULT 0,
    tokens      INTEGER NOT NULL DEFAULT 0, -- spent by itself
    micros      INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER,                   -- when it was given up
    head        BLOB,                      -- of the chain, then
    module      BLOB NOT NULL,
    workflow    TEXT NOT NULL,
    key         TEXT,
    project     TEXT,                      -- the path of its configuration file
    imported    INTEGER NOT NULL DEFAULT 0, -- 1: its journal, or that of the run it began from, names files of another machine
    parent      TEXT,
    parent_step INTEGER,
    on_close    INTEGER,                   -- 0: cancel, 1: abandon
    root        TEXT NOT NULL,             -- the top of its family, which may be itself
    chain       TEXT,                      -- the first round, if it is one of several
    next        TEXT,                      -- the run that it goes on as
    wait_for    TEXT,                      -- JSON: [signal name, ...]; null while it is not parked
    phase       TEXT,
    trouble     TEXT,
    given       BLOB,                      -- CBOR: see Given; null if only `emissions` is known
    budget      BLOB,                      -- CBOR, as in the journal
    labels      TEXT NOT NULL,             -- JSON: [[key, value], ...]
    outcome     BLOB,                      -- CBOR, as in the journal
    parked_at   INTEGER                    -- what the clock showed then
) STRICT;
CREATE UNIQUE INDEX runs_key ON runs (workflow, key) WHERE key NOT NULL;
-- Runs that have begun are found without passing those that have not.
CREATE INDEX runs_due ON runs (due_at, project) WHERE due_at NOT NULL AND state <> 'queued';
CREATE INDEX runs_new ON runs (due_at, project) WHERE due_at NOT NULL AND state = 'queued';
CREATE INDEX runs_family_due ON runs (root, due_at) WHERE due_at NOT NULL;
CREATE INDEX runs_session ON runs (session, root) WHERE session NOT NULL;
CREATE INDEX runs_module ON runs (module);
CREATE INDEX runs_workflow ON runs (workflow, id);
CREATE INDEX runs_state ON runs (state, id);
CREATE INDEX runs_parent ON runs (parent, parent_step) WHERE parent NOT NULL;
CREATE INDEX runs_root ON runs (root);
CREATE INDEX runs_chain ON runs (chain, id) WHERE chain NOT NULL;

CREATE TABLE deleted (
    name TEXT PRIMARY KEY,
    at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE labels (
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    run   INTEGER NOT NULL,
    PRIMARY KEY (key, value, run)
) STRICT, WITHOUT ROWID;

-- What families spent, by their tops, also of runs that were deleted.
CREATE TABLE ledgers (
    root   TEXT PRIMARY KEY,
    tokens INTEGER NOT NULL,
    micros INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The journals: one row for each commit of a run. Of the commits of a run only the first within each block of 32 places
-- is in the index.
CREATE TABLE commits (
    id    INTEGER PRIMARY KEY,
    run   INTEGER NOT NULL,
    seq   INTEGER NOT NULL,                -- the position of the first entry
    count INTEGER NOT NULL,
    at    INTEGER NOT NULL,                -- the time of the last entry
    first INTEGER,                         -- 1 for the run's first one of id / 32, else null
    head  BLOB NOT NULL,                   -- of the chain after the last entry
    body  BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX journal_firsts ON commits (run, seq) WHERE first NOT NULL;

-- What a run has not taken yet.
CREATE TABLE inbox (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    run    INTEGER NOT NULL,
    calm   INTEGER NOT NULL,               -- 0: to be taken first
    at     INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    name   TEXT,                           -- of a signal
    step   INTEGER,                        -- of an answer or a child
    text   TEXT,                           -- a signal's payload, a cancel's reason
    dedupe TEXT,
    body   BLOB                            -- CBOR of an answer or a child's end
) STRICT;
CREATE INDEX inbox_next ON inbox (run, calm, id);

-- The ids of signals that runs were sent, by the first round of each.
CREATE TABLE seen (
    chain  TEXT NOT NULL,
    dedupe TEXT NOT NULL,
    PRIMARY KEY (chain, dedupe)
) STRICT, WITHOUT ROWID;

CREATE TABLE questions (
    run      INTEGER NOT NULL,
    step     INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    deadline INTEGER,
    body     BLOB NOT NULL,                -- CBOR, as in the journal
    answered INTEGER NOT NULL DEFAULT 0,   -- the answer is in the inbox
    PRIMARY KEY (run, step)
) STRICT, WITHOUT ROWID;
CREATE INDEX questions_open ON questions (at, run, step) WHERE answered = 0;

-- What programs give out.
CREATE TABLE logs (
    run     INTEGER NOT NULL,
    number  INTEGER NOT NULL,              -- among the run's emissions
    at      INTEGER NOT NULL,
    level   INTEGER NOT NULL,
    message TEXT NOT NULL,
    fields  TEXT NOT NULL,                 -- JSON: [[key, value], ...]
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE messages (
    run     INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    name    TEXT NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;
-- Every value that was published, the latest of a key being the one that holds.
CREATE TABLE published (
    run    INTEGER NOT NULL,
    key    TEXT NOT NULL,
    number INTEGER NOT NULL,
    at     INTEGER NOT NULL,               -- virtual time
    value  TEXT NOT NULL,
    PRIMARY KEY (run, key, number)
) STRICT, WITHOUT ROWID;

-- What agents said while they worked.
CREATE TABLE transcripts (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    run     INTEGER NOT NULL,
    step    INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    kind    INTEGER NOT NULL,              -- see TranscriptKind
    text    TEXT NOT NULL
) STRICT;
CREATE INDEX transcripts_run ON transcripts (run, id);
CREATE INDEX transcripts_step ON transcripts (run, step, id);

-- Answers that may be used again.
CREATE TABLE answers (
    key   BLOB PRIMARY KEY,                -- the digest of what was asked
    at    INTEGER NOT NULL,
    reply TEXT NOT NULL,
    bytes INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_at ON answers (at, bytes);

CREATE TABLE schedules (
    name       TEXT PRIMARY KEY,
    times      TEXT NOT NULL,              -- see When
    overlap    TEXT NOT NULL,
    catch_up   TEXT NOT NULL,
    workflow   TEXT NOT NULL,
    module     BLOB NOT NULL,
    input      TEXT NOT NULL,
    labels     TEXT NOT NULL,              -- JSON: [[key, value], ...]
    config     BLOB NOT NULL,              -- CBOR, as in the journal
    created_at INTEGER NOT NULL,
    next_at    INTEGER,                    -- null while it is paused
    fired      INTEGER NOT NULL,
    last       TEXT                        -- the run that it began last
) STRICT, WITHOUT ROWID;
CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at NOT NULL;

-- Limits of agent calls that hold for all processes that share the file.
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

-- Who may ask over HTTP, and what they did.
CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,           -- the first part of the token, which is no secret
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL,              -- see TokenKind
    hash       BLOB NOT NULL,              -- BLAKE3 of the whole
    scopes     TEXT NOT NULL,              -- JSON: [scope, ...]
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
    token BLOB PRIMARY KEY,                -- BLAKE3 of the address that was used
    body  BLOB NOT NULL,                   -- BLAKE3 of what came
    at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far the commits were read by those who tell others of them.
CREATE TABLE cursors (
    name   TEXT PRIMARY KEY,
    place  INTEGER NOT NULL,               -- of the last commit that was read
    at     INTEGER NOT NULL,
    holder TEXT,                           -- who reads behind it
    until  INTEGER                         -- and until when
) STRICT, WITHOUT ROWID;
CREATE TABLE deliveries (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    sink       TEXT NOT NULL,
    message    TEXT NOT NULL,              -- by which the receiver knows it
    event      TEXT NOT NULL,
    run        TEXT NOT NULL,
    state      INTEGER NOT NULL,           -- see DeliveryState
    tries      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    next_at    INTEGER,                    -- while it is pending
    ended_at   INTEGER,
    said       TEXT,                       -- why the last try failed
    body       TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX deliveries_message ON deliveries (sink, message);
CREATE INDEX deliveries_due ON deliveries (sink, next_at, id) WHERE state = 0;
CREATE INDEX deliveries_state ON deliveries (state, sink, created_at);
CREATE INDEX deliveries_ended ON deliveries (ended_at) WHERE ended_at NOT NULL;
CREATE INDEX deliveries_run ON deliveries (run);
-- A run that is deleted leaves nothing but its id.
CREATE TRIGGER deliveries_of_deleted AFTER DELETE ON runs BEGIN
    DELETE FROM deliveries WHERE run = OLD.name;
END;
