-- Format 6: a claim takes no more runs than can be read at once. Only a function is added: older hosts go on with
-- theirs.

-- As claim_due_2, but that no more are taken when those before have `p_bytes` in their journals and inboxes; the first
-- is, and the first of the new ones if they have a share. `more`: there may be others.
CREATE FUNCTION wf.claim_due_6(p_session int8, p_turn int8, p_limit int4, p_share int4, p_bytes int8,
    p_inbox_bytes int8, p_projects text[], p_no_project bool, p_families text[], p_except text[], p_now int8)
RETURNS TABLE (
    code int4, turn int4, run int8, name text, epoch int8, starts int4, module bytea, emissions int8, given bytea,
    state int2, wait_until int8, wait_for text[], people bool, head bytea, project text, outcome bytea,
    trouble text, imported bool, more bool) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now int8 := wf.now_1(p_now);
    v_new int8[];
    v_begun int8[];
    v_some int8[];
    v_taken int8[] := '{}';
    v_bytes int8;
    v_count int8;
    c_few CONSTANT int8 := 20000;
    v_more bool;
    a record;
    v_picky bool := p_projects IS NOT NULL OR cardinality(p_except) > 0;
BEGIN
    code := wf.in_turn_1(p_session, p_turn);
    IF code <> 0 THEN RETURN NEXT; RETURN; END IF;
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
    v_more := cardinality(v_begun) + cardinality(v_new) = p_limit;
    -- Mostly all of them fit. The length of what is large is known without fetching it.
    SELECT count(*), coalesce(sum(octet_length(o.body)), 0) INTO v_count, v_bytes FROM (
        SELECT j.body FROM wf.journal j WHERE j.run = ANY (v_begun || v_new) LIMIT c_few) o;
    SELECT v_count + count(*), v_bytes + coalesce(sum(o.own), 0) INTO v_count, v_bytes FROM (
        SELECT coalesce(octet_length(i.text), 0) + coalesce(octet_length(i.body), 0) AS own
        FROM wf.inbox i WHERE i.run = ANY (v_begun || v_new) LIMIT c_few) o;
    IF v_count < c_few AND v_bytes < p_bytes THEN
        v_taken := v_begun || v_new;
    ELSE
        v_bytes := 0;
        FOR v_new_ones IN 0 .. 1 LOOP
            v_some := CASE v_new_ones WHEN 0 THEN v_begun ELSE v_new END;
            -- Not sorted: so few more are measured than are taken.
            FOR a IN SELECT w.run, w.n, j.bytes + least(i.bytes, p_inbox_bytes) AS own
                FROM unnest(v_some) WITH ORDINALITY w(run, n),
                    LATERAL (SELECT coalesce(sum(octet_length(o.body)), 0) AS bytes FROM (
                        SELECT j.body FROM wf.journal j WHERE j.run = w.run OFFSET 0) o) j,
                    LATERAL (SELECT coalesce(sum(coalesce(octet_length(o.text), 0) + coalesce(octet_length(o.body), 0)), 0)
                        AS bytes FROM (SELECT i.text, i.body FROM wf.inbox i WHERE i.run = w.run OFFSET 0) o) i
            LOOP
                IF v_bytes >= p_bytes AND NOT (v_new_ones = 1 AND a.n = 1 AND p_share > 0) THEN
                    v_more := true;
                    EXIT;
                END IF;
                v_bytes := v_bytes + a.own;
                v_taken := v_taken || a.run;
            END LOOP;
        END LOOP;
    END IF;
    RETURN QUERY SELECT 0, array_position(v_taken, t.run), t.*, v_more FROM wf.take_1(p_session, v_taken) t;
END $$;
