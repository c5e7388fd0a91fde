-- What is done inside the server. Each function is one transaction: whole, or not at all.
--
-- The order of locks: the lane of a session, rows of `hot` by their numbers, ledgers by their names. A statement
-- that depends on a lock is one of its own behind it: it sees what was committed before the lock was had.
-- A job is JSON; what is large or no text in it is a number of a place in `blobs`, from 1 on.

CREATE FUNCTION wf.now_1(p_now int8) RETURNS int8 LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(p_now, (extract(epoch FROM clock_timestamp()) * 1000)::int8)
$$;

-- The first place of this transaction.
CREATE FUNCTION wf.place_1() RETURNS int8 LANGUAGE sql VOLATILE AS $$
    SELECT (pg_current_xact_id()::text::int8 + m.xid_base) << 20 FROM wf.meta m
$$;

CREATE FUNCTION wf.insert_message_1(p_run int8, p_at int8, m jsonb, b bytea[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO wf.inbox (run, at, step, calm, kind, name, dedupe, text, body)
    VALUES (p_run, coalesce((m->>'at')::int8, p_at), (m->>'step')::int8, (m->>'calm')::bool, m->>'kind', m->>'name',
            m->>'dedupe', convert_from(b[(m->>'text')::int], 'UTF8'), b[(m->>'body')::int]);
    IF m->>'kind' = 'cancel' THEN
        UPDATE wf.hot SET stopping = true WHERE run = p_run AND NOT stopping;
    END IF;
END $$;

-- Puts a message into an inbox whose run is locked. A run that nobody advances and that waits for this is due now.
-- Gives who is to be told: `to` is the session, or null if the run is due for all.
CREATE FUNCTION wf.hand_over_1(p_run int8, p_name text, p_at int8, m jsonb, b bytea[]) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v record;
    v_kind text := m->>'kind';
BEGIN
    PERFORM wf.insert_message_1(p_run, p_at, m, b);
    SELECT session, state, wait_for INTO v FROM wf.hot WHERE run = p_run;
    IF v.session IS NOT NULL THEN
        RETURN jsonb_build_object('run', p_name, 'to', v.session);
    END IF;
    IF (CASE
        WHEN v.state IN (3, 4) THEN v_kind = 'cancel'
        WHEN v.state = 2 AND v_kind = 'signal' THEN coalesce(m->>'name' = ANY (v.wait_for), false)
        WHEN v.state = 1 AND v_kind = 'signal' THEN false
        ELSE v.state IN (1, 2)
    END) THEN
        UPDATE wf.hot SET due_at = 0 WHERE run = p_run AND due_at IS DISTINCT FROM 0;
        RETURN jsonb_build_object('run', p_name, 'to', NULL);
    END IF;
    RETURN jsonb_build_object('run', p_name, 'to', 0);
END $$;

-- Puts a message of the host into the inbox of a run, unless that has ended; null then.
CREATE FUNCTION wf.deliver_1(p_name text, p_at int8, m jsonb, b bytea[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_run int8;
    v_state int2;
BEGIN
    SELECT run INTO v_run FROM wf.runs WHERE name = p_name AND NOT gone;
    IF NOT FOUND THEN RETURN NULL; END IF;
    SELECT state INTO v_state FROM wf.hot WHERE run = v_run FOR NO KEY UPDATE;
    IF NOT FOUND OR v_state >= 5 THEN RETURN NULL; END IF;
    RETURN wf.hand_over_1(v_run, p_name, p_at, m, b);
END $$;

-- Cancels the children of a run that are to end with it: those of some steps, or all.
CREATE FUNCTION wf.cancel_children_1(p_parent text, p_steps int8[], p_at int8, p_reason text) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_name text;
    v_wakes jsonb := '[]';
    v_wake jsonb;
BEGIN
    FOR v_name IN
        SELECT r.name FROM wf.runs r JOIN wf.hot h ON h.run = r.run
        WHERE r.parent = p_parent AND (p_steps IS NULL OR r.parent_step = ANY (p_steps)) AND r.on_close = 0
          AND NOT r.gone AND h.state < 5 ORDER BY r.run
    LOOP
        v_wake := wf.deliver_1(v_name, p_at, jsonb_build_object('kind', 'cancel', 'calm', false, 'text', 1),
                               ARRAY[convert_to(p_reason, 'UTF8')]);
        IF v_wake IS NOT NULL THEN v_wakes := v_wakes || v_wake; END IF;
    END LOOP;
    RETURN v_wakes;
END $$;

-- Refuses an id that is or was somebody's (3, 4), and a module that is not there (5); 0 if all is well.
CREATE FUNCTION wf.check_new_1(p_name text, p_module bytea) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    v_gone bool;
BEGIN
    SELECT gone INTO v_gone FROM wf.runs WHERE name = p_name;
    IF FOUND THEN RETURN CASE WHEN v_gone THEN 4 ELSE 3 END; END IF;
    -- Modules are not removed as unused while a run begins.
    PERFORM pg_advisory_xact_lock_shared('wf.modules'::regclass::oid::int8);
    PERFORM 1 FROM wf.modules WHERE digest = p_module;
    IF NOT FOUND THEN RETURN 5; END IF;
    RETURN 0;
END $$;

CREATE FUNCTION wf.questions_1(p_run int8, q jsonb, b bytea[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c jsonb;
BEGIN
    FOR c IN SELECT jsonb_array_elements(q) LOOP
        IF c ? 'body' THEN
            INSERT INTO wf.questions AS o (run, step, at, deadline, body)
            VALUES (p_run, (c->>'step')::int8, (c->>'at')::int8, (c->>'deadline')::int8, b[(c->>'body')::int])
            ON CONFLICT (run, step) DO UPDATE
            SET at = excluded.at, deadline = excluded.deadline, answered = false, body = excluded.body;
        ELSE
            DELETE FROM wf.questions WHERE run = p_run AND step = (c->>'step')::int8;
        END IF;
    END LOOP;
END $$;

-- Stores what a program gave out; each has its number.
CREATE FUNCTION wf.emit_1(p_run int8, e jsonb, b bytea[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO wf.logs (run, number, at, level, message, fields)
    SELECT p_run, (x->>'number')::int8, (x->>'at')::int8, (x->>'level')::int2,
           convert_from(b[(x->>'message')::int], 'UTF8'), convert_from(b[(x->>'fields')::int], 'UTF8')
    FROM jsonb_array_elements(e) x WHERE x->>'kind' = 'log';
    INSERT INTO wf.published (run, number, at, key, value)
    SELECT p_run, (x->>'number')::int8, (x->>'at')::int8, x->>'key', convert_from(b[(x->>'value')::int], 'UTF8')
    FROM jsonb_array_elements(e) x WHERE x->>'kind' = 'state';
    INSERT INTO wf.messages (run, number, at, name, payload)
    SELECT p_run, (x->>'number')::int8, (x->>'at')::int8, x->>'name', convert_from(b[(x->>'value')::int], 'UTF8')
    FROM jsonb_array_elements(e) x WHERE x->>'kind' = 'message';
    UPDATE wf.hot SET phase = p.title FROM (
        SELECT x->>'phase' AS title FROM jsonb_array_elements(e) WITH ORDINALITY t(x, n)
        WHERE x ? 'phase' ORDER BY n DESC LIMIT 1) p
    WHERE run = p_run;
END $$;

-- Sets what a run has spent and may spend, and what its family has spent with it.
CREATE FUNCTION wf.set_ledger_1(p_run int8, p_tokens int8, p_micros int8, p_budget bytea) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO wf.ledgers AS l (root, tokens, micros)
    SELECT r.root, p_tokens - h.tokens, p_micros - h.micros FROM wf.runs r JOIN wf.hot h ON h.run = r.run
    WHERE r.run = p_run AND (h.tokens <> p_tokens OR h.micros <> p_micros)
    ON CONFLICT (root) DO UPDATE SET tokens = l.tokens + excluded.tokens, micros = l.micros + excluded.micros;
    UPDATE wf.hot SET tokens = p_tokens, micros = p_micros
    WHERE run = p_run AND (tokens <> p_tokens OR micros <> p_micros);
    UPDATE wf.runs SET budget = p_budget WHERE run = p_run AND budget IS DISTINCT FROM p_budget;
END $$;

-- Makes a run to be found by its labels.
CREATE FUNCTION wf.label_1(p_run int8, j jsonb, b bytea[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO wf.labels (run, label) SELECT p_run, b[x::int] FROM jsonb_array_elements_text(j) x
    ON CONFLICT DO NOTHING
$$;

-- Creates a run whose id is free. Gives its number.
CREATE FUNCTION wf.insert_run_1(j jsonb, b bytea[], p_place int8, p_now int8) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    v_run int8;
    c jsonb;
BEGIN
    INSERT INTO wf.runs (name, key, project, imported, workflow, module, parent, parent_step, on_close, root, chain,
                         next, created_at, budget, labels)
    VALUES (j->>'name', j->>'key', j->>'project', (j->>'imported')::bool, j->>'workflow', b[(j->>'module')::int],
            j->>'parent', (j->>'step')::int8, (j->>'on_close')::int2, j->>'root', j->>'chain', j->>'next',
            (j->>'created_at')::int8, b[(j->>'budget')::int], convert_from(b[(j->>'labels')::int], 'UTF8'))
    RETURNING run INTO v_run;
    INSERT INTO wf.hot (run, epoch, session, state, due_at, updated_at, head, given, outcome, phase, emissions)
    VALUES (v_run, coalesce((j->>'epoch')::int8, 1), (j->>'session')::int8, (j->>'state')::int2,
            (j->>'due_at')::int8, (j->>'updated_at')::int8, b[(j->>'head')::int], b[(j->>'given')::int],
            b[(j->>'outcome')::int], j->>'phase', coalesce((j->>'emissions')::int8, 0));
    INSERT INTO wf.journal (run, seq, at, place, count, head, body)
    SELECT v_run, (x->>'seq')::int8, (j->>'updated_at')::int8, p_place + (x->>'n')::int8, (x->>'count')::int4,
           b[(x->>'head')::int], b[(x->>'body')::int]
    FROM jsonb_array_elements(j->'rows') x;
    IF j ? 'found_by' THEN PERFORM wf.label_1(v_run, j->'found_by', b); END IF;
    FOR c IN SELECT jsonb_array_elements(j->'inbox') LOOP
        PERFORM wf.insert_message_1(v_run, (j->>'created_at')::int8, c, b);
    END LOOP;
    IF j ? 'questions' THEN PERFORM wf.questions_1(v_run, j->'questions', b); END IF;
    FOR c IN SELECT jsonb_array_elements(j->'children') LOOP
        PERFORM wf.start_child_1(v_run, j->>'name', c, b, p_place, p_now);
    END LOOP;
    RETURN v_run;
END $$;

-- Creates a child. False if its id is somebody else's: the parent is told. What it is told for each reason was made
-- beforehand.
CREATE FUNCTION wf.start_child_1(p_parent int8, p_name text, c jsonb, b bytea[], p_place int8, p_now int8)
RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    v_code int;
BEGIN
    PERFORM 1 FROM wf.runs WHERE name = c->>'name' AND parent = p_name AND parent_step = (c->>'step')::int8
        AND NOT gone;
    IF FOUND THEN RETURN true; END IF;
    v_code := wf.check_new_1(c->>'name', b[(c->>'module')::int]);
    IF v_code = 0 THEN
        PERFORM wf.insert_run_1(c, b, p_place, p_now);
        RETURN true;
    END IF;
    PERFORM wf.insert_message_1(p_parent, p_now, c->'refused'->(v_code - 3), b);
    RETURN false;
END $$;

-- Whether something is in the inbox that wakes a run which waits for these signals.
CREATE FUNCTION wf.wakes_1(p_run int8, p_signals text[]) RETURNS bool LANGUAGE sql VOLATILE AS $$
    SELECT EXISTS (SELECT 1 FROM wf.inbox WHERE run = p_run AND (kind <> 'signal' OR name = ANY (p_signals)))
$$;

-- One append with all that goes with it, of a run that is locked, as are its relatives.
CREATE FUNCTION wf.apply_1(p_session int8, j jsonb, b bytea[], p_place int8, p_now int8) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_run int8 := (j->>'run')::int8;
    v_next text := j->>'next';
    h record;
    r record;
    z record;
    c jsonb;
    v_code int;
    v_consumed int8[] := ARRAY(SELECT x::int8 FROM jsonb_array_elements_text(j->'consumed') x);
    v_signals text[] := ARRAY(SELECT jsonb_array_elements_text(j->'signals'));
    v_waits bool := j ? 'signals';
    v_until int8 := (j->>'until')::int8;
    v_troubles int4;
    v_due bool := false;
    v_wakes jsonb := '[]';
    v_wake jsonb;
    v_state int2;
    v_due_at int8;
    v_parked_at int8;
    v_new int8;
BEGIN
    SELECT epoch, session, starts, troubles, emissions INTO h FROM wf.hot WHERE run = v_run;
    IF NOT FOUND OR h.epoch <> (j->>'epoch')::int8 OR h.session IS DISTINCT FROM p_session THEN
        RETURN jsonb_build_object('code', 1);
    END IF;
    SELECT name, parent, parent_step INTO r FROM wf.runs WHERE run = v_run;
    IF v_next = 'continue' THEN
        v_code := wf.check_new_1(j->'to'->>'name', b[(j->'to'->>'module')::int]);
        IF v_code <> 0 THEN RETURN jsonb_build_object('code', v_code); END IF;
    END IF;
    -- Nothing that was sent and not taken becomes void.
    IF v_next IN ('end', 'continue') THEN
        PERFORM 1 FROM wf.inbox WHERE run = v_run AND NOT id = ANY (v_consumed)
            AND (kind = 'answer' OR v_next = 'end' AND kind IN ('signal', 'cancel'));
        IF FOUND THEN RETURN jsonb_build_object('code', 2); END IF;
    END IF;
    IF j ? 'questions' THEN
        PERFORM 1 FROM jsonb_array_elements(j->'questions') x JOIN wf.inbox i
            ON i.run = v_run AND i.calm AND i.kind = 'answer' AND i.step = (x->>'step')::int8
            WHERE NOT x ? 'body' AND NOT i.id = ANY (v_consumed);
        IF FOUND THEN RETURN jsonb_build_object('code', 2); END IF;
    END IF;

    SELECT seq + count AS ends, head, at, place INTO z FROM wf.journal WHERE run = v_run ORDER BY seq DESC LIMIT 1;
    IF j ? 'row' THEN
        c := j->'row';
        IF coalesce(z.ends, 0) <> (c->>'seq')::int8 OR z.head <> b[(c->>'prev')::int] THEN
            RETURN jsonb_build_object('code', 1);
        END IF;
        INSERT INTO wf.journal (run, seq, at, place, count, head, body)
        VALUES (v_run, (c->>'seq')::int8, (j->>'at')::int8, p_place + (c->>'n')::int8, (c->>'count')::int4,
                b[(c->>'head')::int], b[(c->>'body')::int])
        RETURNING seq + count AS ends, head, at, place INTO z;
    END IF;
    v_troubles := CASE WHEN j ? 'row' THEN 0 ELSE h.troubles END;
    IF h.starts > 0 OR h.troubles > 0 THEN
        UPDATE wf.hot SET starts = 0, troubles = v_troubles WHERE run = v_run;
    END IF;
    IF j ? 'module' THEN
        UPDATE wf.runs SET module = b[(j->>'module')::int] WHERE run = v_run;
    END IF;
    IF cardinality(v_consumed) > 0 THEN
        DELETE FROM wf.inbox WHERE id = ANY (v_consumed) AND run = v_run;
    END IF;
    IF j ? 'questions' THEN PERFORM wf.questions_1(v_run, j->'questions', b); END IF;
    IF j ? 'emissions' THEN
        PERFORM wf.emit_1(v_run, (SELECT jsonb_agg(x || jsonb_build_object('number', h.emissions + n - 1) ORDER BY n)
                                  FROM jsonb_array_elements(j->'emissions') WITH ORDINALITY t(x, n)), b);
    END IF;
    IF j ? 'emissions' OR j ? 'given' THEN
        UPDATE wf.hot SET emissions = h.emissions + coalesce(jsonb_array_length(j->'emissions'), 0),
                          given = coalesce(b[(j->>'given')::int], given)
        WHERE run = v_run;
    END IF;
    IF j ? 'ledger' THEN
        PERFORM wf.set_ledger_1(v_run, (j->'ledger'->>'tokens')::int8, (j->'ledger'->>'micros')::int8,
                                b[(j->'ledger'->>'budget')::int]);
    END IF;
    FOR c IN SELECT jsonb_array_elements(j->'children') LOOP
        IF wf.start_child_1(v_run, r.name, c, b, p_place, p_now) THEN
            v_wakes := v_wakes || '[{"run": null, "to": null}]'::jsonb;
        ELSE
            v_due := true;
        END IF;
    END LOOP;
    IF j ? 'dropped' THEN
        v_wakes := v_wakes || wf.cancel_children_1(r.name,
            ARRAY(SELECT x::int8 FROM jsonb_array_elements_text(j->'dropped') x), p_now, j->>'parent_gone');
    END IF;

    -- What becomes of the run.
    IF v_next = 'go' THEN
        RETURN jsonb_build_object('code', 0, 'due', v_due, 'place', z.place, 'wakes', v_wakes);
    ELSIF v_next = 'park' THEN
        -- In this very transaction, and behind the lock: nothing slips in between.
        IF wf.wakes_1(v_run, v_signals) THEN
            RETURN jsonb_build_object('code', 0, 'due', true, 'place', z.place, 'wakes', v_wakes);
        END IF;
        v_state := 2;
        v_due_at := v_until;
        v_parked_at := p_now;
    ELSIF v_next = 'release' THEN
        v_state := CASE WHEN v_waits THEN 2 ELSE 1 END;
        v_due_at := 0;
        IF j ? 'trouble' THEN
            v_due_at := least(p_now + ((j->>'again_ms')::int8 << least(v_troubles, 5)), v_until);
            IF wf.wakes_1(v_run, v_signals) THEN
                v_due_at := least(v_due_at, p_now + (j->>'at_once_ms')::int8);
            END IF;
        END IF;
    ELSIF v_next IN ('pause', 'refuse') THEN
        v_state := CASE v_next WHEN 'pause' THEN 3 ELSE 4 END;
        IF v_next = 'pause' THEN
            DELETE FROM wf.inbox WHERE run = v_run AND NOT calm AND kind = 'pause';
        END IF;
        PERFORM 1 FROM wf.inbox WHERE run = v_run AND NOT calm AND kind = 'cancel';
        IF FOUND THEN v_due_at := 0; END IF;
    ELSE
        v_state := (j->>'state')::int2;
    END IF;
    UPDATE wf.hot SET state = v_state, outcome = b[(j->>'outcome')::int], wait_until = v_until,
        wait_for = CASE WHEN v_waits THEN v_signals END, people = coalesce((j->>'people')::bool, false),
        due_at = v_due_at, trouble = j->>'trouble',
        troubles = CASE WHEN j ? 'trouble' THEN v_troubles + 1 ELSE 0 END, starts = 0, session = NULL,
        parked_at = v_parked_at, head = CASE WHEN (j->>'knows')::bool THEN z.head ELSE head END, updated_at = z.at
    WHERE run = v_run;
    IF v_next IN ('end', 'continue') THEN
        DELETE FROM wf.questions WHERE run = v_run;
    END IF;
    IF v_next = 'end' THEN
        DELETE FROM wf.inbox WHERE run = v_run;
        IF r.parent_step IS NOT NULL AND j ? 'tell' THEN
            v_wake := wf.deliver_1(r.parent, p_now, (j->'tell') || jsonb_build_object('step', r.parent_step), b);
            IF v_wake IS NOT NULL THEN v_wakes := v_wakes || v_wake; END IF;
        END IF;
        v_wakes := v_wakes || wf.cancel_children_1(r.name, NULL, p_now, j->>'parent_gone');
    ELSIF v_next = 'continue' THEN
        UPDATE wf.runs SET next = j->'to'->>'name', chain = coalesce(chain, name) WHERE run = v_run;
        v_wakes := v_wakes || wf.cancel_children_1(r.name, NULL, p_now, j->>'parent_gone');
        v_new := wf.insert_run_1(j->'to', b, p_place, p_now);
        UPDATE wf.inbox SET run = v_new WHERE run = v_run AND kind IN ('signal', 'cancel', 'pause');
        UPDATE wf.hot SET stopping = true WHERE run = v_new
            AND EXISTS (SELECT 1 FROM wf.inbox WHERE run = v_new AND NOT calm AND kind = 'cancel');
        DELETE FROM wf.inbox WHERE run = v_run;
        v_wakes := v_wakes || '[{"run": null, "to": null}]'::jsonb;
    END IF;
    RETURN jsonb_build_object('code', 0, 'due', v_due, 'place', z.place, 'wakes', v_wakes);
END $$;

-- Commits a batch of a session: appends of no more than a row as arrays, all others as jobs. Of the former it gives
-- those that were accepted, of the latter all, behind them. One row with the index -1 if the session was fenced, or
-- if the batch comes too late: its sender has looked what became of it, and found nothing.
CREATE FUNCTION wf.commit_1(p_session int8, p_lane int2, p_batch int8, p_now int8,
    p_run int8[], p_epoch int8[], p_seq int8[], p_prev bytea[], p_count int4[], p_at int8[], p_head bytea[],
    p_body bytea[], p_jobs jsonb, b bytea[], p_turn int8)
RETURNS TABLE (idx int4, place int8, result text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now int8 := wf.now_1(p_now);
    v_place int8;
    v_taken int4[] := '{}';
    c jsonb;
    n int4;
BEGIN
    PERFORM 1 FROM wf.lanes WHERE session = p_session AND lane = p_lane AND turn = p_turn FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT -1, NULL::int8, NULL::text;
        RETURN;
    END IF;
    v_place := wf.place_1();
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
            ON CONFLICT DO NOTHING
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
    n := cardinality(p_run);
    FOR c IN SELECT jsonb_array_elements(p_jobs) LOOP
        RETURN QUERY SELECT n, NULL::int8, wf.apply_1(p_session, c, b, v_place, v_now)::text;
        n := n + 1;
    END LOOP;
    IF p_batch IS NOT NULL THEN
        UPDATE wf.lanes SET batch = p_batch WHERE session = p_session AND lane = p_lane;
    END IF;
END $$;

-- What became of a batch nobody heard of: behind the lock that it took, so that it is not under way any more. If it
-- has not reached the server's attention yet, it never will: another turn begins. None if the session was fenced.
CREATE FUNCTION wf.became_1(p_session int8, p_lane int2, p_run int8[], p_seq int8[], p_head bytea[], p_turn int8)
RETURNS TABLE (batch int8, there bool[]) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_batch int8;
BEGIN
    UPDATE wf.lanes SET turn = greatest(turn, p_turn) WHERE session = p_session AND lane = p_lane
        RETURNING batch INTO v_batch;
    IF NOT FOUND THEN RETURN; END IF;
    RETURN QUERY SELECT v_batch, ARRAY(
        SELECT EXISTS (SELECT 1 FROM wf.journal j WHERE j.run = a.run AND j.seq = a.seq AND j.head = a.head)
        FROM unnest(p_run, p_seq, p_head) WITH ORDINALITY a(run, seq, head, n) ORDER BY n);
END $$;

CREATE FUNCTION wf.begin_session_1(p_id int8, p_host text, p_realm text, p_pid int8, p_started int8, p_lease_ms int8,
    p_version text, p_lanes int4, p_now int8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO wf.sessions (id, host, realm, pid, started, lease_ms, until, version)
    VALUES (p_id, p_host, p_realm, p_pid, p_started, p_lease_ms, wf.now_1(p_now) + p_lease_ms, p_version)
    ON CONFLICT DO NOTHING;
    INSERT INTO wf.lanes (session, lane) SELECT p_id, n FROM generate_series(0, p_lanes - 1) n
    ON CONFLICT DO NOTHING;
END $$;

-- When the session is over; null if it was fenced.
CREATE FUNCTION wf.keep_1(p_id int8, p_now int8) RETURNS TABLE (until int8, now int8) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM wf.sessions WHERE id = p_id FOR NO KEY UPDATE;
    RETURN QUERY UPDATE wf.sessions SET until = wf.now_1(p_now) + lease_ms WHERE id = p_id
        RETURNING until, until - lease_ms;
END $$;

-- Ends a session. Gives how many runs it had.
CREATE FUNCTION wf.fence_1(p_id int8, p_if_over bool, p_in_order bool, p_now int8) RETURNS int8
LANGUAGE plpgsql AS $$
DECLARE
    v_until int8;
    v_runs int8[];
BEGIN
    SELECT until INTO v_until FROM wf.sessions WHERE id = p_id FOR UPDATE;
    IF p_if_over AND v_until > wf.now_1(p_now) THEN RETURN 0; END IF;
    -- Waits for the batches that are under way. Later ones find no lane.
    PERFORM 1 FROM wf.lanes WHERE session = p_id ORDER BY lane FOR UPDATE;
    DELETE FROM wf.lanes WHERE session = p_id;
    v_runs := ARRAY(SELECT run FROM (SELECT run FROM wf.hot WHERE session = p_id ORDER BY run FOR NO KEY UPDATE) x);
    UPDATE wf.hot SET session = NULL, due_at = 0,
        starts = CASE WHEN p_in_order THEN greatest(starts - 1, 0) ELSE starts END
    WHERE run = ANY (v_runs) AND session = p_id;
    DELETE FROM wf.sessions WHERE id = p_id;
    RETURN cardinality(v_runs);
END $$;

CREATE FUNCTION wf.shed_1(p_id int8, p_keep text[]) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    v_runs int8[];
BEGIN
    PERFORM 1 FROM wf.lanes WHERE session = p_id ORDER BY lane FOR NO KEY UPDATE;
    v_runs := ARRAY(SELECT run FROM (
        SELECT h.run FROM wf.hot h JOIN wf.runs r ON r.run = h.run
        WHERE h.session = p_id AND NOT r.name = ANY (p_keep) ORDER BY h.run FOR NO KEY UPDATE OF h) x);
    UPDATE wf.hot SET session = NULL, due_at = 0, starts = greatest(starts - 1, 0)
    WHERE run = ANY (v_runs) AND session = p_id;
    RETURN cardinality(v_runs);
END $$;

-- Gives runs that are locked to a session, and what they were.
CREATE FUNCTION wf.take_1(p_session int8, p_runs int8[]) RETURNS TABLE (
    run int8, name text, epoch int8, starts int4, module bytea, emissions int8, given bytea, state int2,
    wait_until int8, wait_for text[], people bool, head bytea, project text, outcome bytea, trouble text,
    imported bool) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY UPDATE wf.hot h SET epoch = h.epoch + 1, session = p_session, state = 1, wait_until = NULL,
        wait_for = NULL, people = false, outcome = NULL, starts = h.starts + 1, due_at = NULL, trouble = NULL,
        stopping = CASE WHEN o.state >= 5 THEN false ELSE h.stopping END
    FROM unnest(p_runs) w(run),
        LATERAL (SELECT x.state, x.wait_until, x.wait_for, x.people, x.outcome, x.trouble FROM wf.hot x
                 WHERE x.run = w.run OFFSET 0) o,
        LATERAL (SELECT y.name, y.module, y.project, y.imported FROM wf.runs y WHERE y.run = w.run OFFSET 0) r
    WHERE h.run = w.run
    RETURNING h.run, r.name, h.epoch, h.starts, r.module, h.emissions, h.given, o.state, o.wait_until, o.wait_for,
        o.people, h.head, r.project, o.outcome, o.trouble, r.imported;
END $$;

-- Claims one run. `code`: 0 taken, 1 no such run, 2 ended, 3 held by the session `holder`, 4 not due, 5 the own
-- session is over.
CREATE FUNCTION wf.claim_1(p_session int8, p_lane int2, p_name text, p_how text, p_now int8) RETURNS TABLE (
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
    ELSIF p_how = 'as-it-is' AND h.state = 3 THEN
        PERFORM wf.insert_message_1(v_run, wf.now_1(p_now), '{"kind": "pause", "calm": false}', NULL);
    END IF;
    RETURN QUERY SELECT 0, NULL::int8, t.* FROM wf.take_1(p_session, ARRAY[v_run]) t;
END $$;

-- Claims what is due: those that have begun, and new ones for the rest, which is `p_share` at least.
CREATE FUNCTION wf.claim_due_1(p_session int8, p_lane int2, p_limit int4, p_share int4, p_projects text[],
    p_no_project bool, p_families text[], p_except text[], p_now int8) RETURNS TABLE (
    fenced bool, turn int4, run int8, name text, epoch int8, starts int4, module bytea, emissions int8, given bytea,
    state int2, wait_until int8, wait_for text[], people bool, head bytea, project text, outcome bytea,
    trouble text, imported bool) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now int8 := wf.now_1(p_now);
    v_new int8[];
    v_begun int8[];
    v_picky bool := p_projects IS NOT NULL OR cardinality(p_except) > 0;
BEGIN
    PERFORM 1 FROM wf.lanes WHERE session = p_session AND lane = p_lane FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        fenced := true;
        RETURN NEXT;
        RETURN;
    END IF;
    IF p_families IS NULL THEN
        v_new := ARRAY(SELECT x.run FROM wf.hot x WHERE x.due_at IS NOT NULL AND x.state = 0 AND x.due_at <= v_now
            AND (NOT v_picky OR EXISTS (SELECT 1 FROM wf.runs r WHERE r.run = x.run AND NOT r.name = ANY (p_except)
                AND (p_projects IS NULL OR r.project = ANY (p_projects) OR p_no_project AND r.project IS NULL)))
            ORDER BY x.due_at LIMIT p_limit);
        v_begun := ARRAY(SELECT o.run FROM (
            SELECT x.run FROM wf.hot x WHERE x.due_at IS NOT NULL AND x.state <> 0 AND x.due_at <= v_now
            AND (NOT v_picky OR EXISTS (SELECT 1 FROM wf.runs r WHERE r.run = x.run AND NOT r.name = ANY (p_except)
                AND (p_projects IS NULL OR r.project = ANY (p_projects) OR p_no_project AND r.project IS NULL)))
            ORDER BY x.due_at LIMIT p_limit - least(p_share, cardinality(v_new), p_limit)
            FOR NO KEY UPDATE SKIP LOCKED) o);
    ELSE
        v_new := ARRAY(SELECT x.run FROM wf.runs r JOIN wf.hot x ON x.run = r.run
            WHERE r.root = ANY (p_families) AND x.due_at IS NOT NULL AND x.state = 0 AND x.due_at <= v_now
            AND NOT r.gone AND NOT r.name = ANY (p_except)
            AND (p_projects IS NULL OR r.project = ANY (p_projects) OR p_no_project AND r.project IS NULL)
            ORDER BY x.due_at LIMIT p_limit);
        v_begun := ARRAY(SELECT o.run FROM (SELECT x.run FROM wf.runs r JOIN wf.hot x ON x.run = r.run
            WHERE r.root = ANY (p_families) AND x.due_at IS NOT NULL AND x.state <> 0 AND x.due_at <= v_now
            AND NOT r.gone AND NOT r.name = ANY (p_except)
            AND (p_projects IS NULL OR r.project = ANY (p_projects) OR p_no_project AND r.project IS NULL)
            ORDER BY x.due_at LIMIT p_limit - least(p_share, cardinality(v_new), p_limit)
            FOR NO KEY UPDATE OF x SKIP LOCKED) o);
    END IF;
    v_new := ARRAY(SELECT o.run FROM (SELECT x.run FROM wf.hot x WHERE x.run = ANY (v_new) AND x.due_at <= v_now
        AND x.state = 0 ORDER BY x.due_at LIMIT p_limit - cardinality(v_begun) FOR NO KEY UPDATE SKIP LOCKED) o);
    RETURN QUERY SELECT false, array_position(v_begun || v_new, t.run), t.*
        FROM wf.take_1(p_session, v_begun || v_new) t;
END $$;

CREATE FUNCTION wf.unpause_1(p_name text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    v_run int8;
BEGIN
    SELECT run INTO v_run FROM wf.runs WHERE name = p_name AND NOT gone;
    UPDATE wf.hot SET state = 1, due_at = 0, outcome = NULL WHERE run = v_run AND state IN (3, 4);
    IF NOT FOUND THEN RETURN false; END IF;
    DELETE FROM wf.inbox WHERE run = v_run AND NOT calm AND kind = 'pause';
    RETURN true;
END $$;

-- `code`: 0 new, 1 the key is that of the run `known`, 3 to 5 as in check_new, 6 the session is over.
CREATE FUNCTION wf.create_1(j jsonb, b bytea[], p_lane int2, p_now int8)
RETURNS TABLE (code int4, run int8, known text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    known := NULL;
    IF j ? 'session' THEN
        PERFORM 1 FROM wf.lanes WHERE session = (j->>'session')::int8 AND lane = p_lane FOR NO KEY UPDATE;
        IF NOT FOUND THEN code := 6; RETURN NEXT; RETURN; END IF;
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

-- `code`: 0 added, 1 no such run, 2 continued as `latest`, 3 duplicate, 4 ended, 5 stopping, 6 no question.
CREATE FUNCTION wf.post_1(p_name text, m jsonb, b bytea[], p_token bytea, p_deadline_now int8, p_now int8)
RETURNS TABLE (code int4, latest text, wake text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_run int8;
    v_chain text;
    v_kind text := m->>'kind';
    v_now int8 := wf.now_1(p_now);
    h record;
BEGIN
    latest := NULL;
    SELECT r.run, r.chain INTO v_run, v_chain FROM wf.runs r WHERE r.name = p_name AND NOT r.gone;
    IF NOT FOUND THEN code := 1; RETURN NEXT; RETURN; END IF;
    SELECT state, session, stopping INTO h FROM wf.hot WHERE run = v_run FOR NO KEY UPDATE;
    IF NOT FOUND THEN code := 1; RETURN NEXT; RETURN; END IF;
    INSERT INTO wf.posts (token, at) VALUES (p_token, v_now) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        -- It was posted before, and nobody heard of it.
        code := 0;
        wake := jsonb_build_object('run', p_name, 'to', h.session)::text;
        RETURN NEXT;
        RETURN;
    END IF;
    -- The lock was waited for; another round may have begun.
    SELECT r.chain INTO v_chain FROM wf.runs r WHERE r.run = v_run;
    IF h.state = 8 AND v_kind <> 'answer' THEN
        SELECT r.name INTO latest FROM wf.runs r WHERE r.chain = v_chain AND NOT r.gone ORDER BY r.run DESC LIMIT 1;
        code := CASE WHEN latest IS NULL OR latest = p_name THEN 4 ELSE 2 END;
        DELETE FROM wf.posts WHERE token = p_token;
        RETURN NEXT;
        RETURN;
    END IF;
    code := 0;
    IF m ? 'dedupe' THEN
        PERFORM 1 FROM wf.seen WHERE chain = coalesce(v_chain, p_name) AND dedupe = m->>'dedupe';
        IF FOUND THEN
            code := 3;
        ELSIF h.state < 5 THEN
            INSERT INTO wf.seen (chain, dedupe) VALUES (coalesce(v_chain, p_name), m->>'dedupe')
            ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN code := 3; END IF;
        END IF;
    END IF;
    IF code = 0 AND h.state >= 5 THEN code := 4; END IF;
    IF code = 0 AND v_kind = 'pause' THEN
        IF h.stopping THEN
            code := 5;
        ELSIF h.session IS NULL THEN
            UPDATE wf.hot SET state = 3, due_at = NULL WHERE run = v_run;
            wake := jsonb_build_object('run', p_name, 'to', 0)::text;
            RETURN NEXT;
            RETURN;
        ELSE
            DELETE FROM wf.inbox i WHERE i.run = v_run AND NOT i.calm AND i.kind = 'pause';
        END IF;
    END IF;
    IF code = 0 AND v_kind = 'answer' THEN
        UPDATE wf.questions q SET answered = true WHERE q.run = v_run AND q.step = (m->>'step')::int8
            AND NOT q.answered AND (q.deadline IS NULL OR q.deadline > coalesce(p_deadline_now, v_now));
        IF NOT FOUND THEN code := 6; END IF;
    END IF;
    IF code <> 0 THEN
        DELETE FROM wf.posts WHERE token = p_token;
        RETURN NEXT;
        RETURN;
    END IF;
    wake := wf.hand_over_1(v_run, p_name, v_now, m, b)::text;
    RETURN NEXT;
END $$;

-- Puts a run with all that belongs to it into the store. `code` as in check_new.
CREATE FUNCTION wf.import_1(j jsonb, b bytea[], p_now int8) RETURNS int4 LANGUAGE plpgsql AS $$
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
    RETURN 0;
END $$;

CREATE FUNCTION wf.rebuild_1(j jsonb, b bytea[]) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    v_run int8;
    v_session int8;
BEGIN
    SELECT run INTO v_run FROM wf.runs WHERE name = j->>'name' AND NOT gone;
    SELECT session INTO v_session FROM wf.hot WHERE run = v_run FOR NO KEY UPDATE;
    IF NOT FOUND OR v_session IS NOT NULL OR (j->>'entries')::int8 IS DISTINCT FROM
        (SELECT seq + count FROM wf.journal WHERE run = v_run ORDER BY seq DESC LIMIT 1)
    THEN
        RETURN false;
    END IF;
    UPDATE wf.runs SET workflow = j->>'workflow', module = b[(j->>'module')::int], parent = j->>'parent',
        parent_step = (j->>'step')::int8, on_close = (j->>'on_close')::int2, root = j->>'root', chain = j->>'chain',
        next = j->>'next', created_at = (j->>'created_at')::int8,
        labels = convert_from(b[(j->>'labels')::int], 'UTF8')
    WHERE run = v_run;
    DELETE FROM wf.labels WHERE run = v_run;
    IF j ? 'found_by' THEN PERFORM wf.label_1(v_run, j->'found_by', b); END IF;
    UPDATE wf.hot SET updated_at = (j->>'updated_at')::int8, state = (j->>'state')::int2,
        outcome = b[(j->>'outcome')::int], wait_until = (j->>'until')::int8,
        wait_for = CASE WHEN j ? 'signals' THEN ARRAY(SELECT jsonb_array_elements_text(j->'signals')) END,
        people = (j->>'people')::bool, due_at = (j->>'due_at')::int8, head = b[(j->>'head')::int]
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

-- `code`: 0 deleted, 1 no such run, 2 held by the session `holder`, 3 needed.
CREATE FUNCTION wf.delete_1(p_name text, m jsonb, b bytea[], p_parent_gone text, p_now int8)
RETURNS TABLE (code int4, holder int8) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now int8 := wf.now_1(p_now);
    r record;
    h record;
    v_latest int2;
BEGIN
    SELECT run, root, chain, parent, parent_step INTO r FROM wf.runs WHERE name = p_name AND NOT gone;
    IF NOT FOUND THEN code := 1; RETURN NEXT; RETURN; END IF;
    -- With its relatives, who are told of it.
    PERFORM 1 FROM wf.hot WHERE run IN (SELECT r.run UNION SELECT run FROM wf.runs WHERE name = r.parent
        UNION SELECT run FROM wf.runs WHERE parent = p_name AND on_close = 0) ORDER BY run FOR NO KEY UPDATE;
    SELECT state, session, tokens, micros INTO h FROM wf.hot WHERE run = r.run;
    IF NOT FOUND THEN code := 1; RETURN NEXT; RETURN; END IF;
    IF h.session IS NOT NULL THEN
        code := 2;
        holder := h.session;
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT chain INTO r.chain FROM wf.runs WHERE run = r.run;
    IF h.state = 8 AND r.chain IS NOT NULL THEN
        SELECT x.state INTO v_latest FROM wf.runs o JOIN wf.hot x ON x.run = o.run
            WHERE o.chain = r.chain AND NOT o.gone ORDER BY o.run DESC LIMIT 1;
        IF v_latest < 5 THEN code := 3; RETURN NEXT; RETURN; END IF;
    END IF;
    IF h.state < 5 THEN
        IF r.parent_step IS NOT NULL THEN
            PERFORM wf.deliver_1(r.parent, v_now, m || jsonb_build_object('step', r.parent_step), b);
        END IF;
        PERFORM wf.cancel_children_1(p_name, NULL, v_now, p_parent_gone);
    END IF;
    DELETE FROM wf.journal WHERE run = r.run;
    DELETE FROM wf.inbox WHERE run = r.run;
    DELETE FROM wf.logs WHERE run = r.run;
    DELETE FROM wf.published WHERE run = r.run;
    DELETE FROM wf.questions WHERE run = r.run;
    DELETE FROM wf.messages WHERE run = r.run;
    DELETE FROM wf.transcripts WHERE run = r.run;
    DELETE FROM wf.labels WHERE run = r.run;
    DELETE FROM wf.hot WHERE run = r.run;
    UPDATE wf.runs SET gone = true, key = NULL, project = NULL, module = '', parent = NULL, parent_step = NULL,
        root = '', chain = NULL, next = NULL, budget = NULL, labels = '[]' WHERE run = r.run;
    -- What is known of all rounds, and of the family, goes with the last of them.
    IF NOT EXISTS (SELECT 1 FROM wf.runs WHERE chain = coalesce(r.chain, p_name)) THEN
        DELETE FROM wf.seen WHERE chain = coalesce(r.chain, p_name);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM wf.runs WHERE root = r.root) THEN
        DELETE FROM wf.ledgers WHERE root = r.root;
    END IF;
    code := 0;
    RETURN NEXT;
END $$;

CREATE FUNCTION wf.transcribe_1(p_name text, p_step int8[], p_at int8[], p_attempt int8[], p_kind int2[],
    p_text text[], p_heartbeat int2, p_token bytea, p_now int8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_run int8;
    i int4;
BEGIN
    SELECT h.run INTO v_run FROM wf.runs r JOIN wf.hot h ON h.run = r.run WHERE r.name = p_name AND NOT r.gone
        FOR KEY SHARE OF h;
    IF NOT FOUND THEN RETURN; END IF;
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

CREATE FUNCTION wf.bound_answers_1(p_bytes int8) RETURNS void LANGUAGE sql AS $$
    DELETE FROM wf.answers WHERE at <= (SELECT x.at FROM (
        SELECT a.at, sum(a.bytes) OVER (ORDER BY a.at DESC, a.key) AS total FROM wf.answers a) x
        WHERE x.total > p_bytes ORDER BY x.at DESC LIMIT 1)
$$;

CREATE FUNCTION wf.delete_unused_modules_1(p_before int8) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    v_count int8;
BEGIN
    PERFORM pg_advisory_xact_lock('wf.modules'::regclass::oid::int8);
    DELETE FROM wf.modules m WHERE m.added_at < p_before
        AND NOT EXISTS (SELECT 1 FROM wf.runs r WHERE r.module = m.digest)
        AND NOT EXISTS (SELECT 1 FROM wf.schedules s WHERE s.module = m.digest);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

-- False if there is one of that name; null if its module is not there.
CREATE FUNCTION wf.put_schedule_1(p_name text, p_times text, p_overlap text, p_catch_up text, p_workflow text,
    p_module bytea, p_input text, p_labels text, p_config bytea, p_created_at int8, p_next_at int8, p_fired int8,
    p_last text, p_replace bool) RETURNS bool LANGUAGE plpgsql AS $$
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
        created_at = excluded.created_at, next_at = excluded.next_at, fired = excluded.fired, last = excluded.last
    WHERE p_replace;
    RETURN FOUND;
END $$;

-- Carries out one firing of a schedule, if nobody did so before. `code`: 0 done, 1 not due, 3 to 5 as in check_new.
CREATE FUNCTION wf.fire_1(p_name text, p_due int8, p_next int8, p_run jsonb, b bytea[], p_cancel text,
    p_reason text, p_now int8) RETURNS TABLE (code int4, wake text) LANGUAGE plpgsql AS $$
DECLARE
    v_now int8 := wf.now_1(p_now);
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
    IF p_cancel IS NOT NULL THEN
        wake := wf.deliver_1(p_cancel, v_now, jsonb_build_object('kind', 'cancel', 'calm', false, 'text', 1),
                             ARRAY[convert_to(p_reason, 'UTF8')])::text;
    END IF;
    UPDATE wf.schedules SET next_at = p_next, fired = fired + CASE WHEN p_run IS NULL THEN 0 ELSE 1 END,
        last = coalesce(p_run->>'name', last) WHERE name = p_name;
    RETURN NEXT;
END $$;

-- The last place before another one; 0 if there is none. The index knows only in which blocks places are, so the last
-- ones are looked at first, and then ever more.
CREATE FUNCTION wf.last_place_1(p_until int8) RETURNS int8 LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_span int8 := 1 << 26;
    v_place int8;
BEGIN
    LOOP
        SELECT max(place) INTO v_place FROM wf.journal WHERE place >= p_until - v_span AND place < p_until;
        IF v_place IS NOT NULL THEN RETURN v_place; END IF;
        IF v_span >= p_until THEN RETURN 0; END IF;
        v_span := v_span << 6;
        IF v_span >= p_until OR v_span <= 0 THEN v_span := p_until; END IF;
    END LOOP;
END $$;

-- Removes a token. Of several who try, one is told that it did; and it is told so again if it asks again, by `p_asked`.
CREATE FUNCTION wf.delete_token_1(p_id text, p_asked bytea, p_now int8) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM wf.tokens WHERE id = p_id;
    IF FOUND THEN
        INSERT INTO wf.posts (token, at) VALUES (p_asked, wf.now_1(p_now));
        RETURN true;
    END IF;
    RETURN EXISTS (SELECT 1 FROM wf.posts WHERE token = p_asked);
END $$;

CREATE FUNCTION wf.record_act_1(p_at int8, p_who text, p_act text, p_target text, p_result text, p_kept int8,
    p_asked bytea, p_now int8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_id int8;
BEGIN
    INSERT INTO wf.posts (token, at) VALUES (p_asked, wf.now_1(p_now)) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN; END IF;
    INSERT INTO wf.audit (at, who, act, target, result) VALUES (p_at, p_who, p_act, p_target, p_result)
        RETURNING id INTO v_id;
    -- Counting them is not worth it each time; numbers may have gaps.
    IF v_id % 128 = 0 THEN
        DELETE FROM wf.audit WHERE id <= (SELECT o.id FROM wf.audit o ORDER BY o.id DESC OFFSET p_kept LIMIT 1);
    END IF;
END $$;

-- 0: it was not used before; 1: with the same; 2: with something else. `p_asked` as for tokens that are removed.
CREATE FUNCTION wf.use_once_1(p_token bytea, p_body bytea, p_asked bytea, p_now int8) RETURNS int4
LANGUAGE plpgsql AS $$
DECLARE
    v_body bytea;
BEGIN
    INSERT INTO wf.callbacks (token, body, at) VALUES (p_token, p_body, wf.now_1(p_now)) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        INSERT INTO wf.posts (token, at) VALUES (p_asked, wf.now_1(p_now));
        RETURN 0;
    END IF;
    PERFORM 1 FROM wf.posts WHERE token = p_asked;
    IF FOUND THEN RETURN 0; END IF;
    SELECT body INTO v_body FROM wf.callbacks WHERE token = p_token;
    RETURN CASE WHEN v_body = p_body THEN 1 ELSE 2 END;
END $$;
