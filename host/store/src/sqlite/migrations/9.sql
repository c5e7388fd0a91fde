-- Format 9: telling others of what was committed.

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
