-- Appends that cost the server less, and claims that come in time or never. Only functions are added, and some do
-- what they did before with less work: older hosts go on with theirs.

-- A function in SQL that is not inlined is planned anew in each transaction; these keep their plans.
CREATE OR REPLACE FUNCTION wf.now_1(p_now int8) RETURNS int8 LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN coalesce(p_now, (extract(epoch FROM clock_timestamp()) * 1000)::int8);
END $$;

CREATE OR REPLACE FUNCTION wf.place_1() RETURNS int8 LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (SELECT (pg_current_xact_id()::text::int8 + m.xid_base) << 20 FROM wf.meta m WHERE m.one);
END $$;

CREATE OR REPLACE FUNCTION wf.wakes_1(p_run int8, p_signals text[]) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT 1 FROM wf.inbox WHERE run = p_run AND (kind <> 'signal' OR name = ANY (p_signals)));
END $$;

-- A row of one run, by whoever has it: what a lone step is. Its place, or 0 if it is refused, or -1 if the session
-- was fenced or this comes too late, as in commit_1.
CREATE FUNCTION wf.append_1(p_session int8, p_lane int2, p_turn int8, p_run int8, p_epoch int8, p_seq int8,
    p_prev bytea, p_count int4, p_at int8, p_head bytea, p_body bytea) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    v_place int8;
    v_counted bool;
BEGIN
    PERFORM 1 FROM wf.lanes WHERE session = p_session AND lane = p_lane AND turn = p_turn FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN -1; END IF;
    SELECT ((pg_current_xact_id()::text::int8 + m.xid_base) << 20) + 1, h.starts > 0 OR h.troubles > 0
        INTO v_place, v_counted
        FROM wf.hot h,
            LATERAL (SELECT o.seq + o.count AS ends, o.head FROM wf.journal o WHERE o.run = h.run
                     ORDER BY o.seq DESC LIMIT 1) z,
            wf.meta m
        WHERE h.run = p_run AND h.epoch = p_epoch AND h.session = p_session AND z.ends = p_seq AND z.head = p_prev
          AND m.one;
    IF NOT FOUND THEN RETURN 0; END IF;
    INSERT INTO wf.journal (run, seq, at, place, count, head, body)
        VALUES (p_run, p_seq, p_at, v_place, p_count, p_head, p_body);
    -- Whoever appends has come forward.
    IF v_counted THEN
        UPDATE wf.hot SET starts = 0, troubles = 0 WHERE run = p_run AND (starts > 0 OR troubles > 0);
    END IF;
    RETURN v_place;
END $$;

-- As in format 1, but for this: whoever appends where an entry is already would be refused by the look before, so no
-- row has to be tried first and confirmed then.
CREATE OR REPLACE FUNCTION wf.commit_1(p_session int8, p_lane int2, p_batch int8, p_now int8,
    p_run int8[], p_epoch int8[], p_seq int8[], p_prev bytea[], p_count int4[], p_at int8[], p_head bytea[],
    p_body bytea[], p_jobs jsonb, b bytea[], p_turn int8)
RETURNS TABLE (idx int4, place int8, result text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now int8 := coalesce(p_now, (extract(epoch FROM clock_timestamp()) * 1000)::int8);
    v_place int8;
    c jsonb;
    n int4;
BEGIN
    PERFORM 1 FROM wf.lanes WHERE session = p_session AND lane = p_lane AND turn = p_turn FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT -1, NULL::int8, NULL::text;
        RETURN;
    END IF;
    SELECT (pg_current_xact_id()::text::int8 + m.xid_base) << 20 INTO v_place FROM wf.meta m WHERE m.one;
    -- All rows of `hot` that may be changed.
    IF p_jobs IS NOT NULL THEN
        PERFORM 1 FROM wf.hot WHERE run IN (
            SELECT (x->>'run')::int8 FROM jsonb_array_elements(p_jobs) x
            UNION SELECT p.run FROM jsonb_array_elements(p_jobs) x
                JOIN wf.runs r ON r.run = (x->>'run')::int8 JOIN wf.runs p ON p.name = r.parent
                WHERE x->>'next' = 'end'
            UNION SELECT d.run FROM jsonb_array_elements(p_jobs) x
                JOIN wf.runs r ON r.run = (x->>'run')::int8 JOIN wf.runs d ON d.parent = r.name AND d.on_close = 0
                WHERE x->>'next' IN ('end', 'continue') OR x ? 'dropped')
            ORDER BY run FOR NO KEY UPDATE;
        PERFORM 1 FROM wf.ledgers WHERE root IN (
            SELECT r.root FROM jsonb_array_elements(p_jobs) x JOIN wf.runs r ON r.run = (x->>'run')::int8
            WHERE x ? 'ledger')
            ORDER BY root FOR NO KEY UPDATE;
    END IF;
    IF cardinality(p_run) > 0 THEN
        RETURN QUERY INSERT INTO wf.journal (run, seq, at, place, count, head, body)
            SELECT a.run, a.seq, a.at, v_place + a.n, a.count, a.head, a.body
            FROM unnest(p_run, p_epoch, p_seq, p_prev, p_count, p_at, p_head, p_body) WITH ORDINALITY
                AS a(run, epoch, seq, prev, count, at, head, body, n),
            LATERAL (SELECT 1 FROM wf.hot x WHERE x.run = a.run AND x.epoch = a.epoch AND x.session = p_session
                     OFFSET 0) x,
            LATERAL (SELECT o.seq + o.count AS ends, o.head FROM wf.journal o WHERE o.run = a.run
                     ORDER BY o.seq DESC LIMIT 1) z
            WHERE z.ends = a.seq AND z.head = a.prev
            RETURNING (place & 1048575)::int4 - 1, place, NULL::text;
        -- Whoever appends has come forward. Hardly ever are there any.
        PERFORM 1 FROM wf.hot WHERE run = ANY (p_run) AND session = p_session AND (starts > 0 OR troubles > 0)
            ORDER BY run FOR NO KEY UPDATE;
        IF FOUND THEN
            UPDATE wf.hot h SET starts = 0, troubles = 0
            FROM unnest(p_run, p_epoch, p_seq, p_head) a(run, epoch, seq, head)
            WHERE h.run = a.run AND h.epoch = a.epoch AND h.session = p_session
              AND (h.starts > 0 OR h.troubles > 0)
              AND EXISTS (SELECT 1 FROM wf.journal j WHERE j.run = a.run AND j.seq = a.seq AND j.head = a.head);
        END IF;
    END IF;
    IF p_jobs IS NOT NULL THEN
        n := cardinality(p_run);
        FOR c IN SELECT jsonb_array_elements(p_jobs) LOOP
            RETURN QUERY SELECT n, NULL::int8, wf.apply_1(p_session, c, b, v_place, v_now)::text;
            n := n + 1;
        END LOOP;
    END IF;
    IF p_batch IS NOT NULL THEN
        UPDATE wf.lanes SET batch = p_batch WHERE session = p_session AND lane = p_lane;
    END IF;
END $$;

-- A session with one lane more, -1: that of claims. Lanes are locked in the order of their numbers.
CREATE FUNCTION wf.begin_session_2(p_id int8, p_host text, p_realm text, p_pid int8, p_started int8, p_lease_ms int8,
    p_version text, p_lanes int4, p_now int8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM wf.begin_session_1(p_id, p_host, p_realm, p_pid, p_started, p_lease_ms, p_version, p_lanes, p_now);
    INSERT INTO wf.lanes (session, lane) VALUES (p_id, -1) ON CONFLICT DO NOTHING;
END $$;

-- Whether a claim comes in time: its sender waits for its answer still. One that was given up, and lies in a socket
-- somewhere, would take runs that nobody advances then, or one from under whoever has it by now. 0: yes; 5: the
-- session is over; 6: no.
CREATE FUNCTION wf.in_turn_1(p_session int8, p_turn int8) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    v_turn int8;
BEGIN
    SELECT turn INTO v_turn FROM wf.lanes WHERE session = p_session AND lane = -1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN 5; END IF;
    RETURN CASE WHEN v_turn = p_turn THEN 0 ELSE 6 END;
END $$;

-- claim_1 in time; else with the code 6.
CREATE FUNCTION wf.claim_2(p_session int8, p_turn int8, p_lane int2, p_name text, p_how text, p_now int8)
RETURNS TABLE (
    code int4, holder int8, run int8, name text, epoch int8, starts int4, module bytea, emissions int8, given bytea,
    state int2, wait_until int8, wait_for text[], people bool, head bytea, project text, outcome bytea,
    trouble text, imported bool) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    code := wf.in_turn_1(p_session, p_turn);
    IF code <> 0 THEN RETURN NEXT; RETURN; END IF;
    -- The lane of the run as well: what is appended to it is over then.
    RETURN QUERY SELECT * FROM wf.claim_1(p_session, p_lane, p_name, p_how, p_now);
END $$;

-- claim_due_1 in time; else one row with the code.
CREATE FUNCTION wf.claim_due_2(p_session int8, p_turn int8, p_limit int4, p_share int4, p_projects text[],
    p_no_project bool, p_families text[], p_except text[], p_now int8) RETURNS TABLE (
    code int4, turn int4, run int8, name text, epoch int8, starts int4, module bytea, emissions int8, given bytea,
    state int2, wait_until int8, wait_for text[], people bool, head bytea, project text, outcome bytea,
    trouble text, imported bool) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    code := wf.in_turn_1(p_session, p_turn);
    IF code <> 0 THEN RETURN NEXT; RETURN; END IF;
    RETURN QUERY SELECT CASE WHEN d.fenced THEN 5 ELSE 0 END, d.turn, d.run, d.name, d.epoch, d.starts, d.module,
        d.emissions, d.given, d.state, d.wait_until, d.wait_for, d.people, d.head, d.project, d.outcome, d.trouble,
        d.imported
        FROM wf.claim_due_1(p_session, -1::int2, p_limit, p_share, p_projects, p_no_project, p_families, p_except,
                            p_now) d;
END $$;

-- shed_1 in time.
CREATE FUNCTION wf.shed_2(p_session int8, p_turn int8, p_keep text[]) RETURNS TABLE (code int4, runs int8)
LANGUAGE plpgsql AS $$
BEGIN
    code := wf.in_turn_1(p_session, p_turn);
    runs := 0;
    IF code = 0 THEN runs := wf.shed_1(p_session, p_keep); END IF;
    RETURN NEXT;
END $$;
