-- Format 6: of the commits of a run only the first within each block of 32 places is in the index.

CREATE TABLE commits (
    id    INTEGER PRIMARY KEY,
    run   INTEGER NOT NULL,
    seq   INTEGER NOT NULL,            -- the position of the first entry
    count INTEGER NOT NULL,
    at    INTEGER NOT NULL,            -- the time of the last entry
    first INTEGER,                     -- 1 for the run's first one of id / 32, else null
    head  BLOB NOT NULL,               -- of the chain after the last entry
    body  BLOB NOT NULL
) STRICT;
INSERT INTO commits (id, run, seq, count, at, first, head, body)
SELECT j.id, j.run, j.seq, j.count, j.at,
       iif((SELECT p.id FROM journal p WHERE p.run = j.run AND p.seq < j.seq ORDER BY p.seq DESC LIMIT 1) >> 5
           IS j.id >> 5, NULL, 1),
       j.head, j.body
FROM journal j ORDER BY j.id;
DROP TABLE journal;
ALTER TABLE commits RENAME TO journal;
CREATE UNIQUE INDEX journal_firsts ON journal (run, seq) WHERE first NOT NULL;
