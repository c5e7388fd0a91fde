-- Format 2: what is due, questions, outbound messages, runs that were deleted.

ALTER TABLE runs ADD COLUMN due_at INTEGER;               -- see Store::due; null if only somebody's wish moves it
ALTER TABLE runs ADD COLUMN people INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN starts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN trouble TEXT;
ALTER TABLE runs ADD COLUMN head BLOB;                    -- of the chain, when the lease was given up
ALTER TABLE runs ADD COLUMN updated_at INTEGER;           -- then, too
UPDATE runs SET due_at = CASE state
    WHEN 'running' THEN ifnull(lease_until, 0)
    WHEN 'waiting' THEN CASE WHEN EXISTS (SELECT 1 FROM inbox i WHERE i.run = runs.id AND i.taken = 0) THEN 0
                             ELSE wait_until END
    END;
UPDATE runs SET updated_at = (SELECT at FROM journal j WHERE j.run = runs.id ORDER BY j.seq DESC LIMIT 1);
CREATE INDEX runs_due ON runs (due_at) WHERE due_at NOT NULL;
CREATE INDEX runs_owned ON runs (owner_host, owner_pid, owner_start) WHERE owner_host NOT NULL;
CREATE INDEX runs_module ON runs (module);
CREATE INDEX runs_state ON runs (state, id);

ALTER TABLE inbox ADD COLUMN body BLOB;                   -- CBOR of an answer

CREATE TABLE questions (
    run      INTEGER NOT NULL,
    step     INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    deadline INTEGER,
    body     BLOB NOT NULL,                               -- CBOR, as in the journal
    answered INTEGER NOT NULL DEFAULT 0,                  -- the answer is in the inbox
    PRIMARY KEY (run, step)
) STRICT, WITHOUT ROWID;
CREATE INDEX questions_open ON questions (at, run, step) WHERE answered = 0;

CREATE TABLE messages (
    run     INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    name    TEXT NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE deleted (
    name TEXT PRIMARY KEY,
    at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
