-- Format 5: appends, beginnings and ends of runs that cost the server less. But for a column, only functions are added,
-- and some do what they did before with less work, or better: older hosts go on with theirs.
--
-- A function keeps the plans that it made first, maybe when its tables were empty and any index was as good as any
-- other. So here nothing is left to choose: what is looked up is so by one key, in a subquery of its own that cannot be
-- taken apart (`LATERAL`, with `OFFSET 0`, `LIMIT` or a lock), and whatever else is asked of what was found is asked
-- outside.

-- As in format 2, but that the run is looked up by its number, not among all of its session.
CREATE OR REPLACE FUNCTION wf.append_1(p_session int8, p_lane int2, p_turn int8, p_run int8, p_epoch int8, p_seq int8,
    p_prev bytea, p_count int4, p_at int8, p_head bytea, p_body bytea) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    v_place int8;
    v_counted bool;
BEGIN
    PERFORM 1 FROM wf.lanes WHERE session = p_session AND lane = p_lane AND turn = p_turn FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN -1; END IF;
    SELECT ((pg_current_xact_id()::text::int8 + m.xid_base) << 20) + 1, h.counted
        INTO v_place, v_counted
        FROM (SELECT x.epoch, x.session, x.starts > 0 OR x.troubles > 0 AS counted FROM wf.hot x
              WHERE x.run = p_run OFFSET 0) h,
            (SELECT o.seq + o.count AS ends, o.head FROM wf.journal o WHERE o.run = p_run
             ORDER BY o.seq DESC LIMIT 1) z,
            wf.meta m
        WHERE h.epoch = p_epoch AND h.session = p_session AND z.ends = p_seq AND z.head = p_prev AND m.one;
    IF NOT FOUND THEN RETURN 0; END IF;
    INSERT INTO wf.journal (run, seq, at, place, count, head, body)
        VALUES (p_run, p_seq, p_at, v_place, p_count, p_head, p_body);
    -- Whoever appends has come forward.
    IF v_counted THEN
        UPDATE wf.hot SET starts = 0, troubles = 0 WHERE run = p_run AND (starts > 0 OR troubles > 0);
    END IF;
    RETURN v_place;
END $$;

-- Commits a batch of a session, like commit_1: appends of no more than a row as arrays, all others as jobs. A row may
-- be the last of its run, which ends by it as `p_state` with `p_outcome`: its parent is told `p_tell`, as the body of a
-- message, and its children that end with it `p_parent_gone`. `p_state` is null if there is no such row.
-- Gives those rows that were accepted, a second time with a result if others are to be woken; those whose inbox has
-- something that the run has not taken, with the code 2; and all jobs, behind them. One row with the index -1 if the
-- session was fenced, or if the batch comes too late.
CREATE FUNCTION wf.commit_5(p_session int8, p_lane int2, p_turn int8, p_batch int8, p_now int8,
    p_run int8[], p_epoch int8[], p_seq int8[], p_prev bytea[], p_count int4[], p_at int8[], p_head bytea[],
    p_body bytea[], p_state int2[], p_outcome bytea[], p_tell bytea[], p_parent_gone text, p_jobs jsonb, b bytea[])
RETURNS TABLE (idx int4, place int8, result text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now int8 := coalesce(p_now, (extract(epoch FROM clock_timestamp()) * 1000)::int8);
    v_place int8;
    v_ending int8[];
    v_closing int8[];
    v_spending int8[];
    v_locked int8[];
    v_raced int8[];
    v_relatives int4[];
    v_wakes jsonb;
    v_wake jsonb;
    a record;
    c jsonb;
    n int4;
BEGIN
    PERFORM 1 FROM wf.lanes WHERE session = p_session AND lane = p_lane AND turn = p_turn FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT -1, NULL::int8, NULL::text;
        RETURN;
    END IF;
    SELECT (pg_current_xact_id()::text::int8 + m.xid_base) << 20 INTO v_place FROM wf.meta m WHERE m.one;
    -- All rows of `hot` that may be changed: of those that do more than append, and of the relatives of those that end.
    IF p_jobs IS NOT NULL OR p_state IS NOT NULL THEN
        v_ending := ARRAY(SELECT e.run FROM unnest(p_run, p_state) e(run, state) WHERE e.state IS NOT NULL);
        v_closing := v_ending;
        v_locked := v_ending;
        v_spending := '{}';
        IF p_jobs IS NOT NULL THEN
            FOR c IN SELECT jsonb_array_elements(p_jobs) LOOP
                v_locked := v_locked || (c->>'run')::int8;
                IF c->>'next' = 'end' THEN v_ending := v_ending || (c->>'run')::int8; END IF;
                IF c->>'next' IN ('end', 'continue') OR c ? 'dropped' THEN
                    v_closing := v_closing || (c->>'run')::int8;
                END IF;
                IF c ? 'ledger' THEN v_spending := v_spending || (c->>'run')::int8; END IF;
            END LOOP;
        END IF;
        IF cardinality(v_closing) > 0 THEN
            v_locked := v_locked
                || ARRAY(SELECT p.run FROM unnest(v_ending) e(run),
                    LATERAL (SELECT r.parent FROM wf.runs r WHERE r.run = e.run OFFSET 0) r,
                    LATERAL (SELECT o.run FROM wf.runs o WHERE o.name = r.parent OFFSET 0) p)
                || ARRAY(SELECT d.run FROM unnest(v_closing) e(run),
                    LATERAL (SELECT r.name FROM wf.runs r WHERE r.run = e.run OFFSET 0) r,
                    LATERAL (SELECT o.run FROM wf.runs o WHERE o.parent = r.name AND o.on_close = 0 OFFSET 0) d);
        END IF;
        PERFORM 1 FROM (SELECT DISTINCT u.run FROM unnest(v_locked) u(run) ORDER BY u.run OFFSET 0) l,
            LATERAL (SELECT 1 FROM wf.hot h WHERE h.run = l.run FOR NO KEY UPDATE) h;
        IF cardinality(v_spending) > 0 THEN
            PERFORM 1 FROM (SELECT DISTINCT r.root FROM unnest(v_spending) u(run),
                    LATERAL (SELECT o.root FROM wf.runs o WHERE o.run = u.run OFFSET 0) r ORDER BY r.root OFFSET 0) l,
                LATERAL (SELECT 1 FROM wf.ledgers g WHERE g.root = l.root FOR NO KEY UPDATE) g;
        END IF;
        -- Nothing that was sent and not taken becomes void.
        IF p_state IS NOT NULL THEN
            v_raced := ARRAY(SELECT e.run FROM unnest(p_run, p_state) e(run, state),
                LATERAL (SELECT 1 FROM wf.inbox i WHERE i.run = e.run AND i.kind IN ('answer', 'signal', 'cancel')
                         LIMIT 1) i
                WHERE e.state IS NOT NULL);
            IF cardinality(v_raced) > 0 THEN
                RETURN QUERY SELECT e.n::int4 - 1, NULL::int8, '{"code": 2}'::text
                    FROM unnest(p_run, p_state) WITH ORDINALITY e(run, state, n)
                    WHERE e.state IS NOT NULL AND e.run = ANY (v_raced);
            ELSE
                v_raced := NULL;
            END IF;
        END IF;
    END IF;
    IF cardinality(p_run) > 0 THEN
        RETURN QUERY INSERT INTO wf.journal (run, seq, at, place, count, head, body)
            SELECT a.run, a.seq, a.at, v_place + a.n, a.count, a.head, a.body
            FROM unnest(p_run, p_epoch, p_seq, p_prev, p_count, p_at, p_head, p_body) WITH ORDINALITY
                AS a(run, epoch, seq, prev, count, at, head, body, n),
            LATERAL (SELECT o.epoch, o.session FROM wf.hot o WHERE o.run = a.run OFFSET 0) x,
            LATERAL (SELECT o.seq + o.count AS ends, o.head FROM wf.journal o WHERE o.run = a.run
                     ORDER BY o.seq DESC LIMIT 1) z
            WHERE x.epoch = a.epoch AND x.session = p_session AND z.ends = a.seq AND z.head = a.prev
              AND (v_raced IS NULL OR NOT a.run = ANY (v_raced))
            RETURNING (place & 1048575)::int4 - 1, place, NULL::text;
        -- Whoever appends has come forward. Hardly ever are there any.
        PERFORM 1 FROM unnest(p_run) u(run),
            LATERAL (SELECT 1 FROM wf.hot x WHERE x.run = u.run AND (x.starts > 0 OR x.troubles > 0) LIMIT 1) x
            LIMIT 1;
        IF FOUND THEN
            FOR a IN SELECT u.run, u.epoch FROM unnest(p_run, p_epoch, p_seq) WITH ORDINALITY u(run, epoch, seq, n),
                LATERAL (SELECT 1 FROM wf.hot x WHERE x.run = u.run AND (x.starts > 0 OR x.troubles > 0) LIMIT 1) x,
                LATERAL (SELECT o.place FROM wf.journal o WHERE o.run = u.run AND o.seq = u.seq OFFSET 0) z
                WHERE z.place = v_place + u.n ORDER BY u.run
            LOOP
                UPDATE wf.hot SET starts = 0, troubles = 0 WHERE run = a.run;
            END LOOP;
        END IF;
    END IF;
    IF p_state IS NOT NULL THEN
        -- First all end, then relatives are told: of two that end here, none is told of the other.
        v_relatives := '{}';
        FOR a IN SELECT e.*, r.parent_step IS NOT NULL OR d.is_there IS NOT NULL AS relatives,
                q.is_there IS NOT NULL AS asks, i.is_there IS NOT NULL AS mail
            FROM unnest(p_run, p_seq, p_at, p_head, p_state, p_outcome) WITH ORDINALITY
                e(run, seq, at, head, state, outcome, n)
            JOIN LATERAL (SELECT o.place FROM wf.journal o WHERE o.run = e.run AND o.seq = e.seq OFFSET 0) z
                ON z.place = v_place + e.n
            JOIN LATERAL (SELECT o.name, o.parent_step FROM wf.runs o WHERE o.run = e.run OFFSET 0) r ON true
            LEFT JOIN LATERAL (SELECT 1 AS is_there FROM wf.runs o WHERE o.parent = r.name AND o.on_close = 0
                               LIMIT 1) d ON true
            LEFT JOIN LATERAL (SELECT 1 AS is_there FROM wf.questions o WHERE o.run = e.run LIMIT 1) q ON true
            LEFT JOIN LATERAL (SELECT 1 AS is_there FROM wf.inbox o WHERE o.run = e.run LIMIT 1) i ON true
            WHERE e.state IS NOT NULL
        LOOP
            UPDATE wf.hot SET state = a.state, outcome = a.outcome, wait_until = NULL, wait_for = NULL,
                people = false, due_at = NULL, trouble = NULL, troubles = 0, starts = 0, session = NULL,
                parked_at = NULL, head = a.head, updated_at = a.at
                WHERE run = a.run;
            IF a.asks THEN DELETE FROM wf.questions WHERE run = a.run; END IF;
            IF a.mail THEN DELETE FROM wf.inbox WHERE run = a.run; END IF;
            IF a.relatives THEN v_relatives := v_relatives || a.n::int4; END IF;
        END LOOP;
        FOREACH n IN ARRAY v_relatives LOOP
            SELECT r.name, r.parent, r.parent_step INTO a FROM wf.runs r WHERE r.run = p_run[n];
            v_wakes := '[]';
            IF a.parent_step IS NOT NULL THEN
                v_wake := wf.deliver_1(a.parent, v_now, jsonb_build_object('kind', 'child', 'calm', true,
                    'step', a.parent_step, 'body', 1), ARRAY[p_tell[n]]);
                IF v_wake IS NOT NULL THEN v_wakes := v_wakes || v_wake; END IF;
            END IF;
            v_wakes := v_wakes || wf.cancel_children_1(a.name, NULL, v_now, p_parent_gone);
            IF jsonb_array_length(v_wakes) > 0 THEN
                RETURN QUERY SELECT n - 1, v_place + n,
                    jsonb_build_object('code', 0, 'due', false, 'place', v_place + n, 'wakes', v_wakes)::text;
            END IF;
        END LOOP;
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

-- Whether a session is there, and is until this transaction has ended. Runs are created under it while its lanes
-- append: they wait for none, as they did when they took the lock of a lane over the time that it takes to make it
-- durable. Whoever ends the session waits for all who are here, and who comes later finds it gone.
CREATE FUNCTION wf.hold_session_5(p_session int8) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(p_session);
    PERFORM 1 FROM wf.sessions WHERE id = p_session;
    RETURN FOUND;
END $$;

-- As in format 1, but that it waits for those who create runs under the session as well, and that it needs no time
-- that grows with the square of its runs.
CREATE OR REPLACE FUNCTION wf.fence_1(p_id int8, p_if_over bool, p_in_order bool, p_now int8) RETURNS int8
LANGUAGE plpgsql AS $$
DECLARE
    v_until int8;
    v_runs int8;
BEGIN
    SELECT until INTO v_until FROM wf.sessions WHERE id = p_id FOR UPDATE;
    IF p_if_over AND v_until > wf.now_1(p_now) THEN RETURN 0; END IF;
    PERFORM pg_advisory_xact_lock(p_id);
    -- Waits for the batches that are under way. Later ones find no lane.
    PERFORM 1 FROM wf.lanes WHERE session = p_id ORDER BY lane FOR UPDATE;
    DELETE FROM wf.lanes WHERE session = p_id;
    PERFORM 1 FROM (SELECT s.run FROM (SELECT o.run FROM wf.hot o WHERE o.session = p_id OFFSET 0) s
                    ORDER BY s.run OFFSET 0) l,
        LATERAL (SELECT 1 FROM wf.hot h WHERE h.run = l.run FOR NO KEY UPDATE) h;
    UPDATE wf.hot SET session = NULL, due_at = 0,
        starts = CASE WHEN p_in_order THEN greatest(starts - 1, 0) ELSE starts END
    WHERE session = p_id;
    GET DIAGNOSTICS v_runs = ROW_COUNT;
    DELETE FROM wf.sessions WHERE id = p_id;
    RETURN v_runs;
END $$;

-- create_1 without the lock of a lane.
CREATE FUNCTION wf.create_5(j jsonb, b bytea[], p_now int8) RETURNS TABLE (code int4, run int8, known text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    known := NULL;
    IF j ? 'session' AND NOT wf.hold_session_5((j->>'session')::int8) THEN
        code := 6;
        RETURN NEXT;
        RETURN;
    END IF;
    IF j ? 'key' THEN
        SELECT 1, r.run, r.name INTO code, run, known FROM wf.runs r
            WHERE r.workflow = j->>'workflow' AND r.key = j->>'key';
        IF FOUND THEN RETURN NEXT; RETURN; END IF;
    END IF;
    code := wf.check_new_1(j->>'name', b[(j->>'module')::int]);
    IF code = 0 THEN run := wf.insert_run_1(j, b, wf.place_1(), wf.now_1(p_now)); END IF;
    RETURN NEXT;
END $$;

-- The same for a run that is no more than its first row, as most are: nothing has to be read from JSON.
CREATE FUNCTION wf.begin_5(p_session int8, p_name text, p_key text, p_project text, p_imported bool, p_workflow text,
    p_module bytea, p_parent text, p_step int8, p_on_close int2, p_root text, p_chain text, p_created_at int8,
    p_updated_at int8, p_budget bytea, p_labels text, p_state int2, p_given bytea, p_seq int8, p_count int4,
    p_head bytea, p_body bytea) RETURNS TABLE (code int4, run int8, known text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_place int8;
    v_run int8;
BEGIN
    known := NULL;
    IF p_session IS NOT NULL AND NOT wf.hold_session_5(p_session) THEN
        code := 6;
        RETURN NEXT;
        RETURN;
    END IF;
    IF p_key IS NOT NULL THEN
        SELECT 1, r.run, r.name INTO code, run, known FROM wf.runs r WHERE r.workflow = p_workflow AND r.key = p_key;
        IF FOUND THEN RETURN NEXT; RETURN; END IF;
    END IF;
    code := wf.check_new_1(p_name, p_module);
    IF code <> 0 THEN RETURN NEXT; RETURN; END IF;
    SELECT (pg_current_xact_id()::text::int8 + m.xid_base) << 20 INTO v_place FROM wf.meta m WHERE m.one;
    INSERT INTO wf.runs (name, key, project, imported, workflow, module, parent, parent_step, on_close, root, chain,
                         created_at, budget, labels)
        VALUES (p_name, p_key, p_project, p_imported, p_workflow, p_module, p_parent, p_step, p_on_close, p_root, p_chain,
                p_created_at, p_budget, p_labels)
        RETURNING run INTO v_run;
    INSERT INTO wf.hot (run, epoch, session, state, due_at, updated_at, head, given)
        VALUES (v_run, 1, p_session, p_state, CASE WHEN p_session IS NULL THEN 0 END, p_updated_at, p_head, p_given);
    INSERT INTO wf.journal (run, seq, at, place, count, head, body)
        VALUES (v_run, p_seq, p_updated_at, v_place + 1, p_count, p_head, p_body);
    run := v_run;
    RETURN NEXT;
END $$;

-- begin_5 for many runs, of different names and keys, each an element of each array. `idx` counts from 1.
CREATE FUNCTION wf.begin_all_5(p_session int8[], p_name text[], p_key text[], p_project text[], p_imported bool[],
    p_workflow text[], p_module bytea[], p_parent text[], p_step int8[], p_on_close int2[], p_root text[],
    p_chain text[], p_created_at int8[], p_updated_at int8[], p_budget bytea[], p_labels text[], p_state int2[],
    p_given bytea[], p_seq int8[], p_count int8[], p_head bytea[], p_body bytea[])
RETURNS TABLE (idx int4, code int4, run int8, known text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_over int8[] := '{}';
    v_codes int4[] := array_fill(0, ARRAY[cardinality(p_name)]);
    v_runs int8[];
    v_place int8;
    a record;
BEGIN
    FOR a IN SELECT DISTINCT u.session FROM unnest(p_session) u(session) WHERE u.session IS NOT NULL
        ORDER BY u.session
    LOOP
        IF NOT wf.hold_session_5(a.session) THEN v_over := v_over || a.session; END IF;
    END LOOP;
    -- As check_new_1 does.
    PERFORM pg_advisory_xact_lock_shared('wf.modules'::regclass::oid::int8);
    FOR a IN SELECT u.n::int4, CASE WHEN u.session = ANY (v_over) THEN 6 WHEN k.run IS NOT NULL THEN 1
            WHEN r.gone THEN 4 WHEN NOT r.gone THEN 3 ELSE 5 END AS code, k.run, k.name
        FROM unnest(p_session, p_name, p_key, p_workflow, p_module) WITH ORDINALITY
            u(session, name, key, workflow, module, n)
        LEFT JOIN LATERAL (SELECT o.run, o.name FROM wf.runs o WHERE o.workflow = u.workflow AND o.key = u.key
                           LIMIT 1) k ON true
        LEFT JOIN LATERAL (SELECT o.gone FROM wf.runs o WHERE o.name = u.name OFFSET 0) r ON true
        LEFT JOIN LATERAL (SELECT true AS is_there FROM wf.modules o WHERE o.digest = u.module OFFSET 0) m ON true
        WHERE u.session = ANY (v_over) OR k.run IS NOT NULL OR r.gone IS NOT NULL OR m.is_there IS NULL
    LOOP
        v_codes[a.n] := a.code;
        idx := a.n;
        code := a.code;
        run := CASE a.code WHEN 1 THEN a.run END;
        known := CASE a.code WHEN 1 THEN a.name END;
        RETURN NEXT;
    END LOOP;
    SELECT (pg_current_xact_id()::text::int8 + m.xid_base) << 20 INTO v_place FROM wf.meta m WHERE m.one;
    WITH i AS (
        INSERT INTO wf.runs (name, key, project, imported, workflow, module, parent, parent_step, on_close, root, chain,
                             created_at, budget, labels)
        SELECT u.name, u.key, u.project, u.imported, u.workflow, u.module, u.parent, u.step, u.on_close, u.root,
               u.chain, u.created_at, u.budget, u.labels
        FROM unnest(v_codes, p_name, p_key, p_project, p_imported, p_workflow, p_module, p_parent, p_step, p_on_close,
                    p_root, p_chain, p_created_at, p_budget, p_labels)
            u(code, name, key, project, imported, workflow, module, parent, step, on_close, root, chain, created_at,
              budget, labels)
        WHERE u.code = 0
        RETURNING run, name)
    SELECT array_agg(i.run ORDER BY u.n) INTO v_runs
        FROM unnest(p_name) WITH ORDINALITY u(name, n) LEFT JOIN i ON i.name = u.name;
    INSERT INTO wf.hot (run, epoch, session, state, due_at, updated_at, head, given)
        SELECT u.run, 1, u.session, u.state, CASE WHEN u.session IS NULL THEN 0 END, u.updated_at, u.head, u.given
        FROM unnest(v_runs, p_session, p_state, p_updated_at, p_head, p_given)
            u(run, session, state, updated_at, head, given)
        WHERE u.run IS NOT NULL;
    INSERT INTO wf.journal (run, seq, at, place, count, head, body)
        SELECT u.run, u.seq, u.updated_at, v_place + u.n, u.count, u.head, u.body
        FROM unnest(v_runs, p_seq, p_updated_at, p_count, p_head, p_body) WITH ORDINALITY
            u(run, seq, updated_at, count, head, body, n)
        WHERE u.run IS NOT NULL;
    RETURN QUERY SELECT u.n::int4, 0, u.run, NULL::text FROM unnest(v_runs) WITH ORDINALITY u(run, n)
        WHERE u.run IS NOT NULL;
END $$;

-- As in format 1, but that one at a time adds to the transcript of a run, until it is committed. Whoever follows it goes
-- on behind the last number that he has seen: none may come to be seen with a smaller one later.
CREATE OR REPLACE FUNCTION wf.transcribe_1(p_name text, p_step int8[], p_at int8[], p_attempt int8[], p_kind int2[],
    p_text text[], p_heartbeat int2, p_token bytea, p_now int8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_run int8;
    i int4;
BEGIN
    SELECT h.run INTO v_run FROM wf.runs r JOIN wf.hot h ON h.run = r.run WHERE r.name = p_name AND NOT r.gone
        FOR KEY SHARE OF h;
    IF NOT FOUND THEN RETURN; END IF;
    -- Behind the lock of the run, which whoever deletes it takes first, and before the numbers are given.
    PERFORM pg_advisory_xact_lock(hashtextextended('wf.transcripts', v_run));
    INSERT INTO wf.posts (token, at) VALUES (p_token, wf.now_1(p_now)) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN; END IF;
    FOR i IN 1 .. cardinality(p_step) LOOP
        -- A heartbeat takes the place of the one before.
        IF p_kind[i] = p_heartbeat THEN
            DELETE FROM wf.transcripts t WHERE t.run = v_run AND t.id = (
                SELECT o.id FROM wf.transcripts o WHERE o.run = v_run AND o.step = p_step[i]
                AND o.kind = p_heartbeat ORDER BY o.id DESC LIMIT 1);
        END IF;
        INSERT INTO wf.transcripts (run, step, at, attempt, kind, text)
        VALUES (v_run, p_step[i], p_at[i], p_attempt[i], p_kind[i], p_text[i]);
    END LOOP;
END $$;

-- Whoever seizes a paused run and dies leaves a request to pause it.
CREATE OR REPLACE FUNCTION wf.claim_1(p_session int8, p_lane int2, p_name text, p_how text, p_now int8) RETURNS TABLE (
    code int4, holder int8, run int8, name text, epoch int8, starts int4, module bytea, emissions int8, given bytea,
    state int2, wait_until int8, wait_for text[], people bool, head bytea, project text, outcome bytea,
    trouble text, imported bool) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_run int8;
    v_code int4 := 0;
    h record;
BEGIN
    PERFORM 1 FROM wf.lanes WHERE session = p_session AND lane = p_lane FOR NO KEY UPDATE;
    IF NOT FOUND THEN v_code := 5; END IF;
    SELECT r.run INTO v_run FROM wf.runs r WHERE r.name = p_name AND NOT r.gone;
    IF NOT FOUND AND v_code = 0 THEN v_code := 1; END IF;
    IF v_code = 0 THEN
        SELECT x.state, x.session, x.due_at INTO h FROM wf.hot x WHERE x.run = v_run FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            v_code := 1;
        ELSIF h.state >= 5 AND NOT (p_how = 'reopen' AND h.state IN (6, 7)) THEN
            v_code := 2;
        ELSIF h.session <> p_session AND p_how <> 'seize' THEN
            v_code := 3;
        ELSIF h.session IS NULL AND p_how = 'due' AND (h.due_at IS NULL OR h.due_at > wf.now_1(p_now)) THEN
            v_code := 4;
        END IF;
    END IF;
    IF v_code <> 0 THEN
        code := v_code;
        -- Else there may have been none to look at.
        IF v_code = 3 THEN holder := h.session; END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    IF p_how IN ('asked', 'reopen') THEN
        DELETE FROM wf.inbox i WHERE i.run = v_run AND NOT i.calm AND i.kind = 'pause';
    ELSIF p_how IN ('as-it-is', 'seize') AND h.state = 3 THEN
        PERFORM wf.insert_message_1(v_run, wf.now_1(p_now), '{"kind": "pause", "calm": false}', NULL);
    END IF;
    RETURN QUERY SELECT 0, NULL::int8, t.* FROM wf.take_1(p_session, ARRAY[v_run]) t;
END $$;

-- As in format 4, but that nothing that is counted becomes more than can be stored: a run that has the greatest epoch
-- keeps it, and its host tells what is wrong with it, while others are claimed.
CREATE OR REPLACE FUNCTION wf.take_1(p_session int8, p_runs int8[]) RETURNS TABLE (
    run int8, name text, epoch int8, starts int4, module bytea, emissions int8, given bytea, state int2,
    wait_until int8, wait_for text[], people bool, head bytea, project text, outcome bytea, trouble text,
    imported bool) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY UPDATE wf.hot h SET session = p_session, state = 1, wait_until = NULL,
        wait_for = NULL, people = false, outcome = NULL, due_at = NULL, trouble = NULL,
        epoch = CASE WHEN h.epoch < 9223372036854775807 THEN h.epoch + 1 ELSE h.epoch END,
        starts = CASE WHEN h.starts < 2147483647 AND h.session IS DISTINCT FROM p_session THEN h.starts + 1
            ELSE h.starts END,
        stopping = CASE WHEN o.state >= 5 THEN false ELSE h.stopping END
    FROM unnest(p_runs) w(run),
        LATERAL (SELECT x.state, x.wait_until, x.wait_for, x.people, x.outcome, x.trouble FROM wf.hot x
                 WHERE x.run = w.run OFFSET 0) o,
        LATERAL (SELECT y.name, y.module, y.project, y.imported FROM wf.runs y WHERE y.run = w.run OFFSET 0) r
    WHERE h.run = w.run
    RETURNING h.run, r.name, h.epoch, h.starts, r.module, h.emissions, h.given, o.state, o.wait_until, o.wait_for,
        o.people, h.head, r.project, o.outcome, o.trouble, r.imported;
END $$;

-- What a family has spent when a run of it has spent `p_after` in place of `p_before`: what cannot be counted any more
-- is not made less. The same as `family_sum` in the host.
CREATE FUNCTION wf.family_sum_5(p_sum int8, p_before int8, p_after int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    -- What is less than nothing was too much for an earlier host.
    IF p_sum < 0 OR greatest(p_sum, p_after) = 9223372036854775807 THEN RETURN 9223372036854775807; END IF;
    RETURN greatest(least(p_sum::numeric + p_after - p_before, 9223372036854775807), 0)::int8;
END $$;

-- As in format 1, but that it has bounds, as what calls consume has none.
CREATE OR REPLACE FUNCTION wf.set_ledger_1(p_run int8, p_tokens int8, p_micros int8, p_budget bytea) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    h record;
BEGIN
    -- Hosts of earlier formats tell them so.
    IF p_tokens < 0 THEN p_tokens := 9223372036854775807; END IF;
    IF p_micros < 0 THEN p_micros := 9223372036854775807; END IF;
    SELECT x.tokens, x.micros, r.root INTO h FROM wf.hot x,
        LATERAL (SELECT o.root FROM wf.runs o WHERE o.run = x.run OFFSET 0) r
        WHERE x.run = p_run;
    IF h.tokens <> p_tokens OR h.micros <> p_micros THEN
        INSERT INTO wf.ledgers AS l (root, tokens, micros)
        VALUES (h.root, wf.family_sum_5(0, h.tokens, p_tokens), wf.family_sum_5(0, h.micros, p_micros))
        ON CONFLICT (root) DO UPDATE SET tokens = wf.family_sum_5(l.tokens, h.tokens, p_tokens),
            micros = wf.family_sum_5(l.micros, h.micros, p_micros);
        UPDATE wf.hot SET tokens = p_tokens, micros = p_micros WHERE run = p_run;
    END IF;
    UPDATE wf.runs SET budget = p_budget WHERE run = p_run AND budget IS DISTINCT FROM p_budget;
END $$;

-- As in format 1, but that a question whose answer waits to be taken is not asked again.
CREATE OR REPLACE FUNCTION wf.questions_1(p_run int8, q jsonb, b bytea[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c jsonb;
    v_answered bool;
BEGIN
    FOR c IN SELECT jsonb_array_elements(q) LOOP
        IF c ? 'body' THEN
            PERFORM 1 FROM wf.inbox WHERE run = p_run AND calm AND kind = 'answer' AND step = (c->>'step')::int8 LIMIT 1;
            v_answered := FOUND;
            INSERT INTO wf.questions AS o (run, step, at, deadline, answered, body)
            VALUES (p_run, (c->>'step')::int8, (c->>'at')::int8, (c->>'deadline')::int8, v_answered,
                    b[(c->>'body')::int])
            ON CONFLICT (run, step) DO UPDATE
            SET at = excluded.at, deadline = excluded.deadline, answered = excluded.answered, body = excluded.body;
        ELSE
            DELETE FROM wf.questions WHERE run = p_run AND step = (c->>'step')::int8;
        END IF;
    END LOOP;
END $$;

-- As in format 1, but that the ids of signals that the run was sent are known.
CREATE OR REPLACE FUNCTION wf.import_1(j jsonb, b bytea[], p_now int8) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    v_run int8;
    v_code int4 := wf.check_new_1(j->>'name', b[(j->>'module')::int]);
BEGIN
    IF v_code <> 0 THEN RETURN v_code; END IF;
    IF EXISTS (SELECT 1 FROM wf.runs WHERE workflow = j->>'workflow' AND key = j->>'key') THEN
        -- A key that is somebody else's here stays his.
        j := j - 'key';
    END IF;
    v_run := wf.insert_run_1(j, b, wf.place_1(), wf.now_1(p_now));
    PERFORM wf.set_ledger_1(v_run, (j->>'tokens')::int8, (j->>'micros')::int8, b[(j->>'budget')::int]);
    PERFORM wf.emit_1(v_run, j->'given_out', b);
    UPDATE wf.hot SET phase = j->>'phase' WHERE run = v_run;
    INSERT INTO wf.seen (chain, dedupe)
        SELECT coalesce(j->>'chain', j->>'name'), x FROM jsonb_array_elements_text(j->'seen') x
        ON CONFLICT DO NOTHING;
    RETURN 0;
END $$;

-- As in format 1, but that what a schedule has begun stays known of it when it is replaced.
CREATE OR REPLACE FUNCTION wf.put_schedule_1(p_name text, p_times text, p_overlap text, p_catch_up text,
    p_workflow text, p_module bytea, p_input text, p_labels text, p_config bytea, p_created_at int8, p_next_at int8,
    p_fired int8, p_last text, p_replace bool) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared('wf.modules'::regclass::oid::int8);
    PERFORM 1 FROM wf.modules WHERE digest = p_module;
    IF NOT FOUND THEN RETURN NULL; END IF;
    INSERT INTO wf.schedules AS s (name, times, overlap, catch_up, workflow, module, input, labels, config,
                                   created_at, next_at, fired, last)
    VALUES (p_name, p_times, p_overlap, p_catch_up, p_workflow, p_module, p_input, p_labels, p_config,
            p_created_at, p_next_at, p_fired, p_last)
    ON CONFLICT (name) DO UPDATE SET times = excluded.times, overlap = excluded.overlap,
        catch_up = excluded.catch_up, workflow = excluded.workflow, module = excluded.module,
        input = excluded.input, labels = excluded.labels, config = excluded.config,
        created_at = excluded.created_at, next_at = excluded.next_at
    WHERE p_replace;
    RETURN FOUND;
END $$;

-- As in format 4, but that a turn is given back by who has the run only, however late that is heard.
CREATE OR REPLACE FUNCTION wf.take_turns_4(p_words jsonb, p_now int8) RETURNS TABLE (o_at int8) LANGUAGE plpgsql AS $$
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
        ELSIF (w->>'epoch')::int8 < (SELECT h.epoch FROM (SELECT r.run FROM wf.runs r WHERE r.name = w->>'run' OFFSET 0) r,
                LATERAL (SELECT o.epoch FROM wf.hot o WHERE o.run = r.run OFFSET 0) h) THEN
            -- Somebody has the run since.
            NULL;
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

-- As in format 1, but that a run is not paused if nobody asks for that any more: then it stays with its host, which is
-- told that it is due. And that it is known by which clock a run rests that has a trouble.
ALTER FUNCTION wf.apply_1(int8, jsonb, bytea[], int8, int8) RENAME TO apply_any_1;
CREATE FUNCTION wf.apply_1(p_session int8, j jsonb, b bytea[], p_place int8, p_now int8) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_done jsonb;
BEGIN
    IF NOT j ? 'if_asked' OR EXISTS (
        SELECT 1 FROM wf.inbox WHERE run = (j->>'run')::int8 AND NOT calm AND kind = 'pause') THEN
        v_done := wf.apply_any_1(p_session, j, b, p_place, p_now);
        IF j ? 'trouble' AND (v_done->>'code')::int4 = 0 THEN
            UPDATE wf.hot SET parked_at = p_now WHERE run = (j->>'run')::int8;
        END IF;
        RETURN v_done;
    END IF;
    v_done := wf.apply_any_1(p_session, j || '{"next": "go"}', b, p_place, p_now);
    IF (v_done->>'code')::int4 = 0 THEN v_done := v_done || '{"due": true}'; END IF;
    RETURN v_done;
END $$;

-- As in format 1, but that a request to pause is void also if its run is not paused yet.
CREATE OR REPLACE FUNCTION wf.unpause_1(p_name text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    v_run int8;
    v_held bool;
BEGIN
    SELECT run INTO v_run FROM wf.runs WHERE name = p_name AND NOT gone;
    -- Its host commits before this or after it.
    PERFORM 1 FROM wf.hot WHERE run = v_run FOR NO KEY UPDATE;
    UPDATE wf.hot SET state = 1, due_at = 0, outcome = NULL WHERE run = v_run AND state IN (3, 4);
    v_held := FOUND;
    DELETE FROM wf.inbox WHERE run = v_run AND NOT calm AND kind = 'pause';
    RETURN v_held OR FOUND;
END $$;

-- delete_1, if the run still is what it was when somebody chose it: in one of some states, unless these are none, and
-- with its latest entry before a time, if there is one. `code` 4 if not.
CREATE FUNCTION wf.delete_5(p_name text, m jsonb, b bytea[], p_parent_gone text, p_now int8, p_states int2[],
    p_idle_since int8) RETURNS TABLE (code int4, holder int8) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r record;
BEGIN
    SELECT run, parent INTO r FROM wf.runs WHERE name = p_name AND NOT gone;
    IF FOUND THEN
        -- As delete_1 does: with its relatives, in one order.
        PERFORM 1 FROM wf.hot WHERE run IN (SELECT r.run UNION SELECT run FROM wf.runs WHERE name = r.parent
            UNION SELECT run FROM wf.runs WHERE parent = p_name AND on_close = 0) ORDER BY run FOR NO KEY UPDATE;
        PERFORM 1 FROM wf.hot h WHERE h.run = r.run AND NOT (
            (cardinality(p_states) = 0 OR h.state = ANY (p_states))
            AND (p_idle_since IS NULL OR coalesce(h.updated_at < p_idle_since, false)));
        IF FOUND THEN
            code := 4;
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    RETURN QUERY SELECT d.code, d.holder FROM wf.delete_1(p_name, m, b, p_parent_gone, p_now) d;
END $$;

-- Commits behind a place and before another one, in order: so many at most, until they have some bytes together. The index knows only in which blocks places are, and in no order. So what is behind the place is
-- looked at piece by piece, each of a size that what it holds is not much more than is wanted: whoever is far behind does
-- not read all that is left for each page.
CREATE FUNCTION wf.changes_5(p_after int8, p_until int8, p_limit int8, p_bytes int8)
RETURNS TABLE (place int8, name text, seq int8, count int4, body bytea, head bytea) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    v_enough int8 := least(p_limit, 100000) * 4 + 1000;
    v_span int8 := 1 << 26;
    v_from int8 := p_after;
    v_to int8;
    v_found int8;
    v_left int8 := p_limit;
    v_wanted int8;
    v_bytes int8 := p_bytes;
    a record;
BEGIN
    WHILE v_left > 0 AND v_from < p_until - 1 LOOP
        v_to := CASE WHEN p_until - v_from > v_span THEN v_from + v_span ELSE p_until END;
        SELECT count(*) INTO v_found FROM (
            SELECT 1 FROM wf.journal j WHERE j.place > v_from AND j.place < v_to LIMIT v_enough) f;
        IF v_found = v_enough AND v_span > 1 << 20 THEN
            v_span := v_span >> 3;
            CONTINUE;
        END IF;
        IF v_found > 0 THEN
            -- What is large is fetched only when it is known that it is given.
            v_wanted := v_left;
            FOR a IN SELECT j.place, j.run, j.seq, octet_length(j.body) AS size FROM wf.journal j
                WHERE j.place > v_from AND j.place < v_to ORDER BY j.place LIMIT v_wanted
            LOOP
                IF v_bytes <= 0 THEN RETURN; END IF;
                v_bytes := v_bytes - a.size;
                v_wanted := v_wanted - 1;
                v_from := a.place;
                RETURN QUERY SELECT j.place, r.name, j.seq, j.count, j.body, j.head
                    FROM (SELECT o.* FROM wf.journal o WHERE o.run = a.run AND o.seq = a.seq OFFSET 0) j,
                        LATERAL (SELECT o.name FROM wf.runs o WHERE o.run = j.run OFFSET 0) r;
                IF FOUND THEN v_left := v_left - 1; END IF;
            END LOOP;
            -- There may be more, if some of these belong to no run.
            CONTINUE WHEN v_wanted = 0;
        END IF;
        v_from := v_to - 1;
        IF v_found < v_enough >> 3 AND v_span < 1::int8 << 58 THEN v_span := v_span << 3; END IF;
    END LOOP;
END $$;

-- Whether one of the texts of labels, which are JSON, has that in it, which has no capital letters of ASCII. NUL is in
-- texts what hosts make of it. Labels that cannot be read say nothing.
CREATE FUNCTION wf.says_5(p_labels text, p_text text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN EXISTS (SELECT 1
        FROM json_array_elements(replace(replace(p_labels, '\u0001', '\u00011'), '\u0000', '\u00010')::json) l,
            LATERAL json_array_elements_text(l) t(word)
        WHERE strpos(lower(word COLLATE "C"), p_text) > 0);
EXCEPTION WHEN data_exception OR invalid_text_representation THEN
    RETURN false;
END $$;

-- Who puts a module is about to begin a run of it: it is not removed as unused then. Null if it was put once.
ALTER TABLE wf.modules ADD COLUMN put_at int8;

-- As in format 1, but that modules that were put again lately stay.
CREATE OR REPLACE FUNCTION wf.delete_unused_modules_1(p_before int8) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    v_count int8;
BEGIN
    PERFORM pg_advisory_xact_lock('wf.modules'::regclass::oid::int8);
    DELETE FROM wf.modules m WHERE greatest(m.added_at, m.put_at) < p_before
        AND NOT EXISTS (SELECT 1 FROM wf.runs r WHERE r.module = m.digest)
        AND NOT EXISTS (SELECT 1 FROM wf.schedules s WHERE s.module = m.digest);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

-- As in format 1, but that what no entry says is left as it is, as whoever has made the rest anew has read it some time
-- ago: whether the run is paused or refused and why, and what makes it due.
CREATE OR REPLACE FUNCTION wf.rebuild_1(j jsonb, b bytea[]) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    v_run int8;
    h record;
    v_state int2 := (j->>'state')::int2;
    v_signals text[] := ARRAY(SELECT jsonb_array_elements_text(j->'signals'));
    v_waits bool;
    v_due_at int8;
BEGIN
    SELECT run INTO v_run FROM wf.runs WHERE name = j->>'name' AND NOT gone;
    SELECT session, state, due_at, outcome, trouble INTO h FROM wf.hot WHERE run = v_run FOR NO KEY UPDATE;
    IF NOT FOUND OR h.session IS NOT NULL OR (j->>'entries')::int8 IS DISTINCT FROM
        (SELECT seq + count FROM wf.journal WHERE run = v_run ORDER BY seq DESC LIMIT 1)
    THEN
        RETURN false;
    END IF;
    IF v_state < 5 AND h.state < 5 THEN v_state := h.state; END IF;
    v_waits := v_state = 2;
    IF v_state IN (3, 4) THEN
        PERFORM 1 FROM wf.inbox WHERE run = v_run AND NOT calm AND kind = 'cancel';
        IF FOUND THEN v_due_at := 0; END IF;
    ELSIF v_state < 5 THEN
        IF h.trouble IS NOT NULL THEN
            v_due_at := coalesce(h.due_at, 0);
        ELSIF v_waits AND NOT wf.wakes_1(v_run, v_signals) THEN
            v_due_at := (j->>'until')::int8;
        ELSE
            v_due_at := 0;
        END IF;
    END IF;
    UPDATE wf.runs SET workflow = j->>'workflow', module = b[(j->>'module')::int], parent = j->>'parent',
        parent_step = (j->>'step')::int8, on_close = (j->>'on_close')::int2, root = j->>'root', chain = j->>'chain',
        next = j->>'next', created_at = (j->>'created_at')::int8,
        labels = convert_from(b[(j->>'labels')::int], 'UTF8')
    WHERE run = v_run;
    DELETE FROM wf.labels WHERE run = v_run;
    IF j ? 'found_by' THEN PERFORM wf.label_1(v_run, j->'found_by', b); END IF;
    UPDATE wf.hot SET updated_at = (j->>'updated_at')::int8, state = v_state,
        outcome = CASE WHEN v_state = 4 THEN h.outcome WHEN v_state >= 5 THEN b[(j->>'outcome')::int] END,
        wait_until = CASE WHEN v_waits THEN (j->>'until')::int8 END,
        wait_for = CASE WHEN v_waits AND j ? 'signals' THEN v_signals END,
        people = v_waits AND (j->>'people')::bool, due_at = v_due_at, head = b[(j->>'head')::int]
    WHERE run = v_run;
    PERFORM wf.set_ledger_1(v_run, (j->>'tokens')::int8, (j->>'micros')::int8, b[(j->>'budget')::int]);
    DELETE FROM wf.questions WHERE run = v_run;
    PERFORM wf.questions_1(v_run, j->'questions', b);
    IF j ? 'given_out' THEN
        DELETE FROM wf.logs WHERE run = v_run;
        DELETE FROM wf.messages WHERE run = v_run;
        DELETE FROM wf.published WHERE run = v_run;
        UPDATE wf.hot SET emissions = jsonb_array_length(j->'given_out'), phase = NULL WHERE run = v_run;
        PERFORM wf.emit_1(v_run, j->'given_out', b);
    END IF;
    RETURN true;
END $$;

-- As in format 1, but that the run that is cancelled may have continued since it was looked at: then its latest round
-- is.
CREATE OR REPLACE FUNCTION wf.fire_1(p_name text, p_due int8, p_next int8, p_run jsonb, b bytea[], p_cancel text,
    p_reason text, p_now int8) RETURNS TABLE (code int4, wake text) LANGUAGE plpgsql AS $$
DECLARE
    v_now int8 := wf.now_1(p_now);
    v_latest text;
BEGIN
    wake := NULL;
    PERFORM 1 FROM wf.schedules WHERE name = p_name AND next_at = p_due FOR NO KEY UPDATE;
    IF NOT FOUND THEN code := 1; RETURN NEXT; RETURN; END IF;
    code := 0;
    IF p_run IS NOT NULL THEN
        code := wf.check_new_1(p_run->>'name', b[(p_run->>'module')::int]);
        IF code <> 0 THEN RETURN NEXT; RETURN; END IF;
        PERFORM wf.insert_run_1(p_run, b, wf.place_1(), v_now);
    END IF;
    WHILE p_cancel IS NOT NULL LOOP
        wake := wf.deliver_1(p_cancel, v_now, jsonb_build_object('kind', 'cancel', 'calm', false, 'text', 1),
                             ARRAY[convert_to(p_reason, 'UTF8')])::text;
        -- Behind its lock: a round that began while that was waited for is seen.
        SELECT l.name INTO v_latest FROM wf.runs r JOIN wf.runs l ON l.chain = r.chain
            WHERE wake IS NULL AND r.name = p_cancel AND NOT l.gone ORDER BY l.run DESC LIMIT 1;
        p_cancel := nullif(v_latest, p_cancel);
    END LOOP;
    UPDATE wf.schedules SET next_at = p_next, fired = fired + CASE WHEN p_run IS NULL THEN 0 ELSE 1 END,
        last = coalesce(p_run->>'name', last) WHERE name = p_name;
    RETURN NEXT;
END $$;

-- Fails if nobody waits any more for what becomes of a statement: its connection was given up, and what has been said
-- since must not be undone. The same may be tried again at once.
CREATE FUNCTION wf.in_time_5(p_until int8) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_until < wf.now_1(NULL) THEN RAISE EXCEPTION 'it came too late' USING ERRCODE = '40001'; END IF;
    RETURN true;
END $$;
