-- Format 4: limits of agent calls that hold for all hosts together; bytes that runs need besides their modules.
-- Hosts of earlier formats go on: they ask nobody.

CREATE TABLE wf.blobs (
    digest   bytea PRIMARY KEY,            -- BLAKE3
    added_at int8 NOT NULL,
    bytes    bytea NOT NULL
);

-- Slots that sessions have. Those of a session that was ended do not count, whichever host ended it.
CREATE TABLE wf.slots (
    session int8 NOT NULL,
    limits  text COLLATE "C" NOT NULL,     -- JSON: [[name, calls that it lets through], ...]; empty: the row of the session
    turn    int8 NOT NULL,                 -- of the session: what was sent before comes too late
    used    int8 NOT NULL DEFAULT 0,       -- calls under way
    wants   int8 NOT NULL DEFAULT 0,       -- slots that it could use
    has     int8 NOT NULL DEFAULT 0,
    since   int8 NOT NULL DEFAULT 0,       -- when the first call that waits began to wait
    calls   text NOT NULL DEFAULT '[]',    -- JSON: some of those under way
    waiting text NOT NULL DEFAULT '[]',    -- JSON: some of those that wait
    PRIMARY KEY (session, limits)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- Where the turns of a rate have come to, in microseconds: see `Turns` in the host.
CREATE TABLE wf.rates (
    name          text COLLATE "C" PRIMARY KEY,
    full_at       int8 NOT NULL DEFAULT 0,
    behind        int8 NOT NULL DEFAULT 0,
    blocked_until int8 NOT NULL DEFAULT 0,
    seen          int8 NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Turns that steps wait for. One that was given back has no run, and its place as step.
CREATE TABLE wf.turns (
    name    text COLLATE "C" NOT NULL,
    run     text COLLATE "C" NOT NULL,
    step    int8 NOT NULL,
    full_at int8 NOT NULL,
    at      int8 NOT NULL,
    length  int8 NOT NULL,                 -- how much of the rate it takes
    PRIMARY KEY (name, run, step)
);
CREATE INDEX turns_order ON wf.turns (name, full_at);
CREATE INDEX turns_run ON wf.turns (run) WHERE run <> '';

-- Tells all that a session needs, and gives out what is free: the same as `share` in the host. Gives the sessions
-- that have got something, and what the one that asks has, by its limits. Nothing if the session was ended or asks
-- too late.
CREATE FUNCTION wf.share_slots_4(p_session int8, p_turn int8, p_asks jsonb, p_now int8)
RETURNS TABLE (o_session int8, o_limits text, o_has int8) LANGUAGE plpgsql AS $$
DECLARE
    v_now int8;
    v_used jsonb;
    v_any bool;
    v_sessions int8[];
    v_limits text[];
    v_lacks int8[];
    v_gains int8[];
BEGIN
    -- One at a time; each statement below sees what was committed before it had the lock.
    PERFORM pg_advisory_xact_lock('wf.slots'::regclass::oid::int8);
    v_now := wf.now_1(p_now);
    PERFORM 1 FROM wf.sessions s WHERE s.id = p_session
        AND NOT EXISTS (SELECT 1 FROM wf.slots x WHERE x.session = p_session AND x.limits = '' AND x.turn >= p_turn);
    IF NOT FOUND THEN RETURN; END IF;
    DELETE FROM wf.slots x WHERE NOT EXISTS (SELECT 1 FROM wf.sessions s WHERE s.id = x.session);
    INSERT INTO wf.slots AS x (session, limits, turn) VALUES (p_session, '', p_turn)
        ON CONFLICT (session, limits) DO UPDATE SET turn = excluded.turn;
    DELETE FROM wf.slots x WHERE x.session = p_session AND x.limits <> ''
        AND NOT EXISTS (SELECT 1 FROM jsonb_array_elements(p_asks) a WHERE a->>'limits' = x.limits);
    INSERT INTO wf.slots AS x (session, limits, turn, used, wants, has, since, calls, waiting)
        SELECT p_session, a->>'limits', p_turn, (a->>'used')::int8, (a->>'wants')::int8, (a->>'used')::int8,
               greatest(v_now - (a->>'waited')::int8, 0), a->>'calls', a->>'waiting'
        FROM jsonb_array_elements(p_asks) a
        ON CONFLICT (session, limits) DO UPDATE SET turn = excluded.turn, used = excluded.used,
            wants = excluded.wants, has = excluded.has, since = excluded.since, calls = excluded.calls,
            waiting = excluded.waiting;

    SELECT coalesce(jsonb_object_agg(t.name, t.has), '{}') INTO v_used FROM (
        SELECT e->>0 AS name, sum(x.has) AS has FROM wf.slots x, jsonb_array_elements(x.limits::jsonb) e
        WHERE x.limits <> '' GROUP BY 1) t;
    SELECT array_agg(x.session ORDER BY x.since, x.session, x.limits),
           array_agg(x.limits ORDER BY x.since, x.session, x.limits),
           array_agg(x.wants - x.has ORDER BY x.since, x.session, x.limits)
        INTO v_sessions, v_limits, v_lacks FROM wf.slots x WHERE x.has < x.wants AND x.limits <> '';
    v_gains := array_fill(0::int8, ARRAY[coalesce(cardinality(v_lacks), 0)]);
    LOOP
        v_any := false;
        FOR i IN 1 .. cardinality(v_gains) LOOP
            CONTINUE WHEN v_lacks[i] = v_gains[i];
            PERFORM 1 FROM jsonb_array_elements(v_limits[i]::jsonb) e
                WHERE coalesce((v_used->>(e->>0))::int8, 0) >= (e->>1)::int8;
            CONTINUE WHEN FOUND;
            SELECT v_used || jsonb_object_agg(e->>0, coalesce((v_used->>(e->>0))::int8, 0) + 1) INTO v_used
                FROM jsonb_array_elements(v_limits[i]::jsonb) e;
            v_gains[i] := v_gains[i] + 1;
            v_any := true;
        END LOOP;
        EXIT WHEN NOT v_any;
    END LOOP;
    UPDATE wf.slots x SET has = x.has + g.gain, since = v_now
        FROM unnest(v_sessions, v_limits, v_gains) g(session, limits, gain)
        WHERE x.session = g.session AND x.limits = g.limits AND g.gain > 0;
    RETURN QUERY SELECT x.session, x.limits, x.has FROM wf.slots x WHERE x.session = p_session;
    RETURN QUERY SELECT DISTINCT g.session, NULL::text, NULL::int8
        FROM unnest(v_sessions, v_gains) g(session, gain) WHERE g.gain > 0 AND g.session <> p_session;
END $$;

-- A turn that nobody wants any more. Those who got later ones keep them.
CREATE FUNCTION wf.give_back_4(p_name text, p_full_at int8, p_at int8, p_length int8) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    l record;
BEGIN
    IF p_length = 0 THEN RETURN; END IF;
    INSERT INTO wf.turns (name, run, step, full_at, at, length)
        VALUES (p_name, '', p_full_at, p_full_at, p_at, p_length) ON CONFLICT DO NOTHING;
    -- The last ones have nobody behind them.
    LOOP
        SELECT t.full_at, t.length INTO l FROM wf.turns t WHERE t.name = p_name AND t.run = ''
            ORDER BY t.step DESC LIMIT 1;
        EXIT WHEN NOT FOUND;
        UPDATE wf.rates SET full_at = greatest(l.full_at - l.length, 0) WHERE name = p_name AND full_at = l.full_at;
        EXIT WHEN NOT FOUND;
        DELETE FROM wf.turns WHERE name = p_name AND run = '' AND step = l.full_at;
    END LOOP;
END $$;

-- When the turn of a call is, in milliseconds; null if it may begin now. The same as `Queue::pass` in the host. The
-- row of the rate is locked.
CREATE FUNCTION wf.pass_4(p_name text, p_length int8, p_burst int8, p_run text, p_step int8, p_now int8)
RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    v_now int8 := p_now * 1000;
    v_late int8 := least(greatest(p_length * p_burst, 5000000), 60000000) / 1000;
    v_earliest int8;
    v_at int8;
    r record;
    t record;
    v_held bool;
BEGIN
    -- A clock that was put right: turns keep their distance to now.
    UPDATE wf.rates SET behind = behind - (seen - v_now), blocked_until = greatest(blocked_until - (seen - v_now), 0),
        seen = v_now WHERE name = p_name AND seen - v_now > 1000000;
    UPDATE wf.rates SET seen = v_now WHERE name = p_name AND seen < v_now;
    SELECT full_at, behind, blocked_until INTO r FROM wf.rates WHERE name = p_name;
    -- Those who did not come.
    DELETE FROM wf.turns x WHERE x.name = p_name AND x.run <> ''
        AND x.full_at < coalesce((SELECT min(y.full_at) FROM wf.turns y WHERE y.name = p_name AND y.run <> ''
            AND (greatest(y.at + r.behind, 0) + 999) / 1000 + v_late >= p_now), x.full_at + 1);
    SELECT x.full_at, x.at, x.length INTO t FROM wf.turns x WHERE x.name = p_name AND x.run = p_run AND x.step = p_step;
    v_held := FOUND;
    IF NOT v_held THEN
        v_earliest := greatest(greatest(v_now, r.blocked_until) - r.behind, 0);
        -- One that was given back and has passed is lost.
        DELETE FROM wf.turns x WHERE x.name = p_name AND x.run = '' AND x.at < v_earliest
            AND x.step < coalesce((SELECT min(y.step) FROM wf.turns y WHERE y.name = p_name AND y.run = ''
                AND y.at >= v_earliest), x.step + 1);
        DELETE FROM wf.turns x WHERE x.name = p_name AND x.run = '' AND x.step = (
            SELECT min(y.step) FROM wf.turns y WHERE y.name = p_name AND y.run = '')
            RETURNING x.full_at, x.at, x.length INTO t;
        IF NOT FOUND THEN
            UPDATE wf.rates SET full_at = greatest(full_at, v_earliest) + p_length WHERE name = p_name
                RETURNING full_at, greatest(full_at - p_length * p_burst, v_earliest) AS at, p_length AS length INTO t;
        END IF;
    END IF;
    v_at := (greatest(t.at + r.behind, 0) + 999) / 1000;
    IF v_at <= p_now THEN
        DELETE FROM wf.turns x WHERE x.name = p_name AND x.run = p_run AND x.step = p_step;
        RETURN NULL;
    END IF;
    IF NOT v_held THEN
        INSERT INTO wf.turns (name, run, step, full_at, at, length)
            VALUES (p_name, p_run, p_step, t.full_at, t.at, t.length);
    END IF;
    RETURN v_at;
END $$;

-- Does all of this in order. Gives for each when the turn of its call is; null if it may begin now.
CREATE FUNCTION wf.take_turns_4(p_words jsonb, p_now int8) RETURNS TABLE (o_at int8) LANGUAGE plpgsql AS $$
DECLARE
    v_now int8;
    w jsonb;
    x record;
    v_until int8;
    v_from int8;
    v_length int8;
BEGIN
    -- All rates in one order, so that nobody waits for one who waits for him.
    INSERT INTO wf.rates (name) SELECT DISTINCT a->>'name' FROM jsonb_array_elements(p_words) a
        WHERE a->>'kind' IN ('pass', 'block') ORDER BY 1 ON CONFLICT DO NOTHING;
    PERFORM 1 FROM wf.rates r WHERE r.name IN (
        SELECT a->>'name' FROM jsonb_array_elements(p_words) a
        UNION SELECT t.name FROM wf.turns t WHERE t.run IN (
            SELECT a->>'run' FROM jsonb_array_elements(p_words) a WHERE a->>'kind' = 'release-run'))
        ORDER BY r.name FOR NO KEY UPDATE;
    -- Behind the lock: times come in the order of the turns.
    v_now := wf.now_1(p_now);
    FOR w IN SELECT jsonb_array_elements(p_words) LOOP
        o_at := NULL;
        v_length := (w->>'length')::int8;
        IF w->>'kind' = 'pass' THEN
            o_at := wf.pass_4(w->>'name', v_length, (w->>'burst')::int8, w->>'run', (w->>'step')::int8, v_now);
        ELSIF w->>'kind' = 'block' THEN
            UPDATE wf.rates SET behind = behind - (seen - v_now * 1000),
                blocked_until = greatest(blocked_until - (seen - v_now * 1000), 0), seen = v_now * 1000
                WHERE name = w->>'name' AND seen - v_now * 1000 > 1000000;
            UPDATE wf.rates SET seen = v_now * 1000 WHERE name = w->>'name' AND seen < v_now * 1000;
            SELECT greatest(v_now * 1000, blocked_until) INTO v_from FROM wf.rates WHERE name = w->>'name';
            v_until := (v_now + (w->>'millis')::int8) * 1000;
            IF v_until > v_from THEN
                UPDATE wf.rates SET behind = behind + (v_until - v_from), blocked_until = v_until,
                    full_at = greatest(full_at, greatest(v_until - (behind + (v_until - v_from)), 0)
                        + v_length * ((w->>'burst')::int8 - 1))
                    WHERE name = w->>'name';
            END IF;
        ELSE
            FOR x IN DELETE FROM wf.turns t WHERE t.run = w->>'run' AND t.run <> ''
                AND (w->>'kind' = 'release-run' OR t.name = w->>'name' AND t.step = (w->>'step')::int8)
                RETURNING t.name, t.full_at, t.at, t.length
            LOOP
                PERFORM wf.give_back_4(x.name, x.full_at, x.at, x.length);
            END LOOP;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

-- As in format 1, but that whoever has a run and begins it again has not been brought down by it: no start is counted.
CREATE OR REPLACE FUNCTION wf.take_1(p_session int8, p_runs int8[]) RETURNS TABLE (
    run int8, name text, epoch int8, starts int4, module bytea, emissions int8, given bytea, state int2,
    wait_until int8, wait_for text[], people bool, head bytea, project text, outcome bytea, trouble text,
    imported bool) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY UPDATE wf.hot h SET epoch = h.epoch + 1, session = p_session, state = 1, wait_until = NULL,
        wait_for = NULL, people = false, outcome = NULL, due_at = NULL, trouble = NULL,
        starts = h.starts + (h.session IS DISTINCT FROM p_session)::int4,
        stopping = CASE WHEN o.state >= 5 THEN false ELSE h.stopping END
    FROM unnest(p_runs) w(run),
        LATERAL (SELECT x.state, x.wait_until, x.wait_for, x.people, x.outcome, x.trouble FROM wf.hot x
                 WHERE x.run = w.run OFFSET 0) o,
        LATERAL (SELECT y.name, y.module, y.project, y.imported FROM wf.runs y WHERE y.run = w.run OFFSET 0) r
    WHERE h.run = w.run
    RETURNING h.run, r.name, h.epoch, h.starts, r.module, h.emissions, h.given, o.state, o.wait_until, o.wait_for,
        o.people, h.head, r.project, o.outcome, o.trouble, r.imported;
END $$;
