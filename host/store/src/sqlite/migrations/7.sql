-- Format 7: sessions of hosts, who advances which run, keys and projects, ledgers of families.
-- What older programs write to is renamed or has other columns: they fail instead of writing.

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
CREATE TABLE runs_7 (
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
    outcome     BLOB                       -- CBOR, as in the journal
) STRICT;
INSERT INTO runs_7 (id, name, epoch, emissions, starts, stopping, state, due_at, wait_until, people, tokens,
                    micros, created_at, updated_at, head, module, workflow, key, parent, parent_step,
                    on_close, root, chain, next, wait_for, phase, trouble, budget, labels, outcome)
SELECT id, name, epoch, emissions, starts,
       EXISTS (SELECT 1 FROM inbox i WHERE i.run = r.id AND i.taken = 0 AND i.kind = 'cancel'),
       -- Whoever has it is of an older version, and writes no more.
       state, iif(state = 'running', 0, due_at), wait_until, people, tokens, micros,
       created_at, updated_at, head, module, workflow, key, parent, parent_step, on_close, ifnull(root, name),
       chain, next, wait_for, phase, trouble, budget, labels, outcome
FROM runs r ORDER BY id;
DELETE FROM sqlite_sequence WHERE name = 'runs_7';
INSERT INTO sqlite_sequence SELECT 'runs_7', seq FROM sqlite_sequence WHERE name = 'runs';
DROP TABLE runs;
ALTER TABLE runs_7 RENAME TO runs;
CREATE UNIQUE INDEX runs_key ON runs (workflow, key) WHERE key NOT NULL;
CREATE INDEX runs_due ON runs (due_at, project) WHERE due_at NOT NULL AND state <> 'queued';
CREATE INDEX runs_new ON runs (due_at, project) WHERE due_at NOT NULL AND state = 'queued';
CREATE INDEX runs_family_due ON runs (root, due_at) WHERE due_at NOT NULL;
CREATE INDEX runs_session ON runs (session, root) WHERE session NOT NULL;
CREATE INDEX runs_module ON runs (module);
CREATE INDEX runs_state ON runs (state, id);
CREATE INDEX runs_parent ON runs (parent, parent_step) WHERE parent NOT NULL;
CREATE INDEX runs_root ON runs (root);
CREATE INDEX runs_chain ON runs (chain, id) WHERE chain NOT NULL;

ALTER TABLE journal RENAME TO commits;

-- What a run has not taken yet.
CREATE TABLE inbox_7 (
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
-- The ids of signals that runs were sent, by the first round of each.
CREATE TABLE seen (
    chain  TEXT NOT NULL,
    dedupe TEXT NOT NULL,
    PRIMARY KEY (chain, dedupe)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO seen SELECT ifnull(r.chain, r.name), i.dedupe FROM inbox i JOIN runs r ON r.id = i.run
    WHERE i.dedupe NOT NULL;
INSERT INTO inbox_7 (id, run, calm, at, kind, name, text, dedupe, body)
SELECT id, run, kind NOT IN ('cancel', 'pause'), at, kind, name, text, dedupe, body
FROM inbox WHERE taken = 0 ORDER BY id;
DELETE FROM sqlite_sequence WHERE name = 'inbox_7';
INSERT INTO sqlite_sequence SELECT 'inbox_7', seq FROM sqlite_sequence WHERE name = 'inbox';
DROP TABLE inbox;
ALTER TABLE inbox_7 RENAME TO inbox;
CREATE INDEX inbox_next ON inbox (run, calm, id);

-- What families spent, by their tops, also of runs that were deleted.
CREATE TABLE ledgers (
    root   TEXT PRIMARY KEY,
    tokens INTEGER NOT NULL,
    micros INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO ledgers SELECT root, sum(tokens), sum(micros) FROM runs
    GROUP BY root HAVING sum(tokens) > 0 OR sum(micros) > 0;

ALTER TABLE answers ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE answers SET bytes = octet_length(reply);
CREATE INDEX answers_at ON answers (at, bytes);
CREATE INDEX modules_name ON modules (name, added_at);

-- By which what is kept beside the database is told from what belongs to others.
CREATE TABLE identity (
    id TEXT NOT NULL                       -- random
) STRICT;
INSERT INTO identity VALUES (lower(hex(randomblob(8))));

-- What the clock showed when the run was parked.
ALTER TABLE runs ADD COLUMN parked_at INTEGER;
