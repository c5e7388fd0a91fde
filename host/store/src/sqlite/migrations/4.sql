-- Format 4: children, runs that continue as new, what families spend, the history of published values.

ALTER TABLE runs ADD COLUMN parent_step INTEGER;
ALTER TABLE runs ADD COLUMN on_close INTEGER;             -- 0: cancel, 1: abandon
ALTER TABLE runs ADD COLUMN root TEXT;                    -- the top of its family, which may be itself
ALTER TABLE runs ADD COLUMN chain TEXT;                   -- the first round, if it is one of several
ALTER TABLE runs ADD COLUMN next TEXT;                    -- the run that it goes on as
ALTER TABLE runs ADD COLUMN tokens INTEGER NOT NULL DEFAULT 0; -- spent by itself
ALTER TABLE runs ADD COLUMN micros INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN budget BLOB;                  -- CBOR, as in the journal
UPDATE runs SET root = name;
CREATE INDEX runs_parent ON runs (parent, parent_step) WHERE parent NOT NULL;
CREATE INDEX runs_root ON runs (root);
CREATE INDEX runs_chain ON runs (chain, id) WHERE chain NOT NULL;

-- Every value that was published, the latest of a key being the one that holds.
CREATE TABLE published (
    run    INTEGER NOT NULL,
    key    TEXT NOT NULL,
    number INTEGER NOT NULL,                              -- among the run's emissions
    at     INTEGER NOT NULL,                              -- virtual time
    value  TEXT NOT NULL,
    PRIMARY KEY (run, key, number)
) STRICT, WITHOUT ROWID;
INSERT INTO published SELECT s.run, s.key, 0, r.created_at, s.value FROM state s JOIN runs r ON r.id = s.run;
DROP TABLE state;

CREATE TABLE schedules (
    name       TEXT PRIMARY KEY,
    times      TEXT NOT NULL,                             -- see When
    overlap    TEXT NOT NULL,
    catch_up   TEXT NOT NULL,
    workflow   TEXT NOT NULL,
    module     BLOB NOT NULL,
    input      TEXT NOT NULL,
    labels     TEXT NOT NULL,                             -- JSON: [[key, value], ...]
    config     BLOB NOT NULL,                             -- CBOR, as in the journal
    created_at INTEGER NOT NULL,
    next_at    INTEGER,                                   -- null while it is paused
    fired      INTEGER NOT NULL,
    last       TEXT                                       -- the run that it began last
) STRICT, WITHOUT ROWID;
CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at NOT NULL;
