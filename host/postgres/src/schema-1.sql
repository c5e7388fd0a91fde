-- Format 1. `wf` stands for the schema that the URL names.
-- Times are milliseconds since 1970. Numbers of states are places in `RunState::ALL`.

CREATE TABLE wf.meta (
    one         bool PRIMARY KEY DEFAULT true CHECK (one),
    format      int4 NOT NULL,             -- what the tables are
    oldest_host int4 NOT NULL,             -- the oldest format that a host may know to write here
    store       text NOT NULL,             -- by which the store is told, wherever it is moved to
    secret      bytea NOT NULL,            -- 32 random bytes that addresses for callbacks are made of
    xid_base    int8 NOT NULL              -- what is added to numbers of transactions, so that places only grow
);

-- Hosts, each for as long as it renews its session.
CREATE TABLE wf.sessions (
    id       int8 PRIMARY KEY,             -- random, never given out twice
    host     text NOT NULL,
    realm    text NOT NULL,                -- see Owner
    pid      int8 NOT NULL,
    started  int8 NOT NULL,
    lease_ms int8 NOT NULL,
    until    int8 NOT NULL,                -- when it is over, by the clock of the server
    version  text NOT NULL                 -- of wfhost
) WITH (fillfactor = 50);

-- Each batch of a session locks one of its lanes, and whoever fences the session removes all of them: so
-- nothing is committed under a session after its fence.
CREATE TABLE wf.lanes (
    session int8 NOT NULL,
    lane    int2 NOT NULL,
    batch   int8 NOT NULL DEFAULT 0,       -- the last batch that says whether it was committed
    turn    int8 NOT NULL DEFAULT 0,       -- what was sent in an earlier one comes too late
    PRIMARY KEY (session, lane)
) WITH (fillfactor = 50);

-- What seldom changes of a run. One that was deleted keeps its row, so that its name is not used again.
CREATE TABLE wf.runs (
    run         int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text COLLATE "C" NOT NULL UNIQUE,
    gone        bool NOT NULL DEFAULT false,
    key         text,
    project     text,
    imported    bool NOT NULL,
    workflow    text NOT NULL,
    module      bytea NOT NULL,
    parent      text COLLATE "C",
    parent_step int8,
    on_close    int2,                      -- 0: cancel, 1: abandon
    root        text COLLATE "C" NOT NULL,
    chain       text COLLATE "C",
    next        text,
    created_at  int8 NOT NULL,
    budget      bytea,                     -- CBOR
    labels      text NOT NULL              -- JSON: [[key, value], ...]
);
CREATE UNIQUE INDEX runs_key ON wf.runs (key, workflow) WHERE key IS NOT NULL;
CREATE INDEX runs_module ON wf.runs (module);
CREATE INDEX runs_parent ON wf.runs (parent, parent_step) WHERE parent IS NOT NULL;
CREATE INDEX runs_root ON wf.runs (root);
CREATE INDEX runs_chain ON wf.runs (chain, run) WHERE chain IS NOT NULL;

-- By what runs are found: the first half of BLAKE3 of a label, which may be too long for an index.
CREATE TABLE wf.labels (
    run   int8 NOT NULL,
    label bytea NOT NULL,
    PRIMARY KEY (run, label)
);
CREATE INDEX labels_label ON wf.labels (label, run);

-- What changes with each claim and each end, as narrow as it can be.
CREATE TABLE wf.hot (
    run        int8 PRIMARY KEY,
    epoch      int8 NOT NULL,
    session    int8,                       -- who advances it
    emissions  int8 NOT NULL DEFAULT 0,
    due_at     int8,                       -- null if a session has it, or if only somebody's wish moves it
    wait_until int8,
    parked_at  int8,
    updated_at int8,                       -- of the last entry, when it was given up
    tokens     int8 NOT NULL DEFAULT 0,
    micros     int8 NOT NULL DEFAULT 0,
    starts     int4 NOT NULL DEFAULT 0,
    troubles   int4 NOT NULL DEFAULT 0,
    state      int2 NOT NULL,
    people     bool NOT NULL DEFAULT false,
    stopping   bool NOT NULL DEFAULT false,
    head       bytea,                      -- of the chain, when it was given up
    given      bytea,                      -- CBOR
    outcome    bytea,                      -- CBOR
    wait_for   text[],                     -- null while it is not parked
    trouble    text,
    phase      text
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX hot_due ON wf.hot (due_at) WHERE due_at IS NOT NULL AND state <> 0;
CREATE INDEX hot_new ON wf.hot (due_at) WHERE due_at IS NOT NULL AND state = 0;
CREATE INDEX hot_session ON wf.hot (session) WHERE session IS NOT NULL;
CREATE INDEX hot_state ON wf.hot (state, run) WHERE state < 5;

CREATE TABLE wf.journal (
    run   int8 NOT NULL,
    seq   int8 NOT NULL,
    at    int8 NOT NULL,
    place int8 NOT NULL,                   -- the transaction, and a number within it
    count int4 NOT NULL,
    head  bytea NOT NULL,
    body  bytea NOT NULL,
    PRIMARY KEY (run, seq)
);
CREATE INDEX journal_place ON wf.journal USING brin (place) WITH (pages_per_range = 16, autosummarize = on);

CREATE TABLE wf.inbox (
    id     int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run    int8 NOT NULL,
    at     int8 NOT NULL,
    step   int8,
    calm   bool NOT NULL,                  -- false: to be taken first
    kind   text NOT NULL,
    name   text,
    dedupe text,
    text   text,
    body   bytea
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX inbox_next ON wf.inbox (run, calm, id);

-- The ids of signals that runs were sent, by the first round of each.
CREATE TABLE wf.seen (
    chain  text COLLATE "C" NOT NULL,
    dedupe text COLLATE "C" NOT NULL,
    PRIMARY KEY (chain, dedupe)
);
-- What was posted lately, so that whoever does not know whether it was can post it again.
CREATE TABLE wf.posts (
    token bytea PRIMARY KEY,
    at    int8 NOT NULL
);
CREATE INDEX posts_at ON wf.posts (at);

CREATE TABLE wf.questions (
    run      int8 NOT NULL,
    step     int8 NOT NULL,
    at       int8 NOT NULL,
    deadline int8,
    answered bool NOT NULL DEFAULT false,
    body     bytea NOT NULL,
    PRIMARY KEY (run, step)
);
CREATE INDEX questions_open ON wf.questions (at, run, step) WHERE NOT answered;

CREATE TABLE wf.logs (
    run     int8 NOT NULL,
    number  int8 NOT NULL,
    at      int8 NOT NULL,
    level   int2 NOT NULL,
    message text NOT NULL,
    fields  text NOT NULL,
    PRIMARY KEY (run, number)
);
CREATE TABLE wf.published (
    run    int8 NOT NULL,
    number int8 NOT NULL,
    at     int8 NOT NULL,
    key    text COLLATE "C" NOT NULL,
    value  text NOT NULL,
    PRIMARY KEY (run, number, key)
);
CREATE INDEX published_key ON wf.published (run, key, number);
CREATE TABLE wf.messages (
    run     int8 NOT NULL,
    number  int8 NOT NULL,
    at      int8 NOT NULL,
    name    text NOT NULL,
    payload text NOT NULL,
    PRIMARY KEY (run, number)
);
CREATE TABLE wf.transcripts (
    id      int8 GENERATED ALWAYS AS IDENTITY,
    run     int8 NOT NULL,
    step    int8 NOT NULL,
    at      int8 NOT NULL,
    attempt int8 NOT NULL,
    kind    int2 NOT NULL,
    text    text NOT NULL,
    PRIMARY KEY (run, id)
);
CREATE INDEX transcripts_step ON wf.transcripts (run, step, kind, id);

-- What families spent, by their tops, also of runs that were deleted.
CREATE TABLE wf.ledgers (
    root   text COLLATE "C" PRIMARY KEY,
    tokens int8 NOT NULL,
    micros int8 NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE wf.modules (
    digest   bytea PRIMARY KEY,
    name     text NOT NULL,
    added_at int8 NOT NULL,
    length   int8 NOT NULL,
    bytes    bytea NOT NULL
);
CREATE INDEX modules_name ON wf.modules (name, added_at);

CREATE TABLE wf.answers (
    key   bytea PRIMARY KEY,
    at    int8 NOT NULL,
    bytes int8 NOT NULL,
    reply text NOT NULL
);
CREATE INDEX answers_at ON wf.answers (at, bytes);

CREATE TABLE wf.schedules (
    name       text COLLATE "C" PRIMARY KEY,
    times      text NOT NULL,
    overlap    text NOT NULL,
    catch_up   text NOT NULL,
    workflow   text NOT NULL,
    module     bytea NOT NULL,
    input      text NOT NULL,
    labels     text NOT NULL,
    config     bytea NOT NULL,
    created_at int8 NOT NULL,
    next_at    int8,
    fired      int8 NOT NULL,
    last       text
);
CREATE INDEX schedules_due ON wf.schedules (next_at) WHERE next_at IS NOT NULL;

-- Who may ask over the network.
CREATE TABLE wf.tokens (
    id         text COLLATE "C" PRIMARY KEY, -- the first part of the token, which is no secret
    name       text NOT NULL,
    kind       text NOT NULL,              -- see TokenKind
    hash       bytea NOT NULL,             -- BLAKE3 of the whole
    scopes     text NOT NULL,              -- JSON: [scope, ...]
    created_at int8 NOT NULL,
    expires_at int8,
    used_at    int8
) WITH (fillfactor = 70);

CREATE TABLE wf.audit (
    id     int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     int8 NOT NULL,
    who    text NOT NULL,
    act    text NOT NULL,
    target text NOT NULL,
    result text NOT NULL
);

CREATE TABLE wf.callbacks (
    token bytea PRIMARY KEY,               -- BLAKE3 of the address that was used
    body  bytea NOT NULL,                  -- BLAKE3 of what came
    at    int8 NOT NULL
);
