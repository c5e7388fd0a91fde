-- Format 3: telling others of what was committed. Hosts of earlier formats go on: they tell nobody.

-- How far the commits were read by those who tell others of them.
CREATE TABLE wf.cursors (
    name   text COLLATE "C" PRIMARY KEY,
    place  int8 NOT NULL,                  -- of the last commit that was read
    at     int8 NOT NULL,
    holder text,                           -- who reads behind it
    until  int8                            -- and until when
) WITH (fillfactor = 50);

CREATE TABLE wf.deliveries (
    id         int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sink       text COLLATE "C" NOT NULL,
    message    text COLLATE "C" NOT NULL,  -- by which the receiver knows it
    event      text NOT NULL,
    run        text COLLATE "C" NOT NULL,
    state      int2 NOT NULL,              -- see DeliveryState
    tries      int4 NOT NULL,
    created_at int8 NOT NULL,
    next_at    int8,                       -- while it is pending
    ended_at   int8,
    said       text,                       -- why the last try failed
    body       text NOT NULL
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX deliveries_message ON wf.deliveries (sink, message);
CREATE INDEX deliveries_due ON wf.deliveries (sink, next_at, id) WHERE state = 0;
CREATE INDEX deliveries_state ON wf.deliveries (state, sink, created_at);
CREATE INDEX deliveries_ended ON wf.deliveries (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX deliveries_run ON wf.deliveries (run);

-- A run that is deleted leaves nothing but its id, whichever host deletes it.
CREATE FUNCTION wf.forget_deliveries_3() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM wf.deliveries WHERE run = NEW.name;
    RETURN NULL;
END $$;
CREATE TRIGGER deliveries_of_deleted AFTER UPDATE OF gone ON wf.runs
    FOR EACH ROW WHEN (NEW.gone AND NOT OLD.gone) EXECUTE FUNCTION wf.forget_deliveries_3();
