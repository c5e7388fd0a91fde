-- Format 5: runs that have begun are found without passing those that have not.

DROP INDEX runs_due;
CREATE INDEX runs_due ON runs (due_at) WHERE due_at NOT NULL AND state <> 'queued';
CREATE INDEX runs_new ON runs (due_at) WHERE due_at NOT NULL AND state = 'queued';
