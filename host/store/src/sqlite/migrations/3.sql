-- Format 3: what agents said while they worked, and answers that may be used again.

CREATE TABLE transcripts (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    run     INTEGER NOT NULL,
    step    INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    kind    INTEGER NOT NULL,          -- see TranscriptKind
    text    TEXT NOT NULL
) STRICT;
CREATE INDEX transcripts_run ON transcripts (run, id);
CREATE INDEX transcripts_step ON transcripts (run, step, id);

CREATE TABLE answers (
    key   BLOB PRIMARY KEY,            -- the digest of what was asked
    at    INTEGER NOT NULL,
    reply TEXT NOT NULL
) STRICT, WITHOUT ROWID;
