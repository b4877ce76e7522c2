-- Write what users read of weddings: an array of `wedsync.domain.weddings.projection.ProjectionWrite`, all or nothing.
--
-- It runs as the system role: a session that is bound to an organization may write that one's rows only, one that
-- is bound to none (a group of several) any organization's; each row belongs to its wedding's organization or fails.
-- A writer locks the weddings first, in the order of their ids, so that two never wait for each other; under that
-- lock events are numbered without gaps. Returns {"writes": [what each changed, in the given order],
-- "listened_to": [the organizations among them where somebody subscribes to events]}.
CREATE FUNCTION write_projections(writes jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
  bound_to text := nullif(current_setting('wedsync.organization_id', true), '');
  item jsonb;
  part jsonb;
  place int;
  organization text;
  wedding text := '';
  at timestamptz;
  run text;
  holder text;
  epoch bigint;
  seq bigint;
  first bigint;
  changed wedding_events[];
  told wedding_events[] := '{}';
  claim jsonb;
  settled boolean;
  moved jsonb;
  kind_found text;
  has_answers boolean := false;
  taken jsonb[] := '{}';
BEGIN
  PERFORM FROM weddings
  WHERE id = ANY (ARRAY(SELECT w ->> 'wedding_id' FROM jsonb_array_elements(writes) w))
  ORDER BY id FOR NO KEY UPDATE;

  FOR item, place IN
    SELECT w.value, w.ordinality FROM jsonb_array_elements(writes) WITH ORDINALITY w
    ORDER BY w.value ->> 'wedding_id', w.ordinality
  LOOP
    organization := item ->> 'organization_id';
    at := (item ->> 'now')::timestamptz;
    IF bound_to <> organization THEN
      RAISE 'a session of % writes nothing of another organization', bound_to USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF wedding <> item ->> 'wedding_id' THEN
      wedding := item ->> 'wedding_id';
      seq := NULL;
    END IF;
    PERFORM FROM weddings w WHERE w.id = wedding AND w.organization_id = organization;
    IF NOT FOUND THEN
      RAISE 'no wedding % of %', wedding, organization USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF seq IS NULL THEN
      SELECT event_seq INTO seq FROM weddings WHERE id = wedding;
    END IF;
    run := nullif(item ->> 'run_id', '');
    epoch := 0;
    IF run IS NOT NULL THEN
      SELECT w.run_id, w.run_epoch INTO holder, epoch FROM weddings w WHERE w.id = wedding;
      IF holder IS NULL OR (holder <> run AND holder = item ->> 'takes_from') THEN
        epoch := epoch + 1;
        UPDATE weddings w SET run_id = run, run_epoch = epoch WHERE w.id = wedding;
      ELSIF holder <> run THEN
        taken[place] := jsonb_build_object('contested_by', holder);
        CONTINUE;
      END IF;
    END IF;
    -- Versions of a later run are higher than all of an earlier one.
    epoch := epoch << 40;
    first := seq + 1;
    claim := NULL;
    settled := false;
    moved := NULL;

    part := item -> 'begin';
    IF jsonb_typeof(part) = 'object' THEN
      claim := claim_transaction(organization, wedding, part, at);
      IF (claim ->> 'started')::boolean THEN
        UPDATE weddings SET status = 'active' WHERE id = wedding AND status = 'planned';
        seq := seq + 1;
        told := told || ROW(organization, wedding, seq, 'transaction',
          jsonb_build_object('id', part -> 'id', 'kind', part -> 'kind', 'status', 'running'), at)::wedding_events;
      END IF;
    END IF;

    IF item ->> 'rolling_back' IS NOT NULL THEN
      UPDATE transactions SET status = 'rolling_back'
      WHERE id = item ->> 'rolling_back' AND wedding_id = wedding AND status = 'running' AND version = 1
      RETURNING kind INTO kind_found;
      IF FOUND THEN
        seq := seq + 1;
        told := told || ROW(organization, wedding, seq, 'transaction', jsonb_build_object(
          'id', item -> 'rolling_back', 'kind', kind_found, 'status', 'rolling_back'), at)::wedding_events;
      END IF;
    END IF;

    part := item -> 'references';
    IF jsonb_array_length(part) > 0 THEN
      INSERT INTO external_refs (organization_id, vendor, account, object_id, wedding_id, step_id, transaction_id,
        created_at)
      SELECT organization, r.vendor, r.account, r.object_id, wedding, r.step_id, r.transaction_id, at
      FROM jsonb_to_recordset(part) AS r(vendor text, account text, object_id text, step_id text, transaction_id text)
      ON CONFLICT DO NOTHING;
    END IF;

    part := item -> 'steps';
    IF jsonb_array_length(part) > 0 THEN
      WITH given AS (
        SELECT g.version + epoch AS version, s.* FROM jsonb_to_recordset(part) AS g(state jsonb, version bigint),
          jsonb_to_record(g.state) AS s(step_id text, transaction_id text, status text, vendor text,
            fallback_used boolean, attempts int, external_id text, due_at timestamptz, started_at timestamptz,
            ended_at timestamptz, error jsonb, compensation jsonb)
      ), written AS (
        UPDATE steps s SET transaction_id = coalesce(g.transaction_id, s.transaction_id), status = g.status,
          vendor = g.vendor, fallback_used = g.fallback_used, attempts = g.attempts, external_id = g.external_id,
          due_at = g.due_at, started_at = g.started_at, ended_at = g.ended_at, error = nullif(g.error, 'null'),
          compensation = nullif(g.compensation, 'null'), version = g.version
        FROM given g
        WHERE s.wedding_id = wedding AND s.step_id = g.step_id AND s.version < g.version
          AND (s.status, s.vendor, s.attempts, s.external_id, s.due_at, s.started_at, s.ended_at, s.error,
               s.compensation, s.transaction_id)
            IS DISTINCT FROM (g.status, g.vendor, g.attempts, g.external_id, g.due_at, g.started_at, g.ended_at,
               nullif(g.error, 'null'), nullif(g.compensation, 'null'), coalesce(g.transaction_id, s.transaction_id))
        RETURNING s.*
      ), numbered AS (
        SELECT *, seq + row_number() OVER (ORDER BY position) AS number FROM written
      )
      SELECT array_agg(ROW(organization, wedding, c.number, 'step', jsonb_build_object('id', c.step_id,
        'service', c.service, 'capability', c.capability, 'action', c.action, 'status', c.status, 'vendor', c.vendor,
        'fallback_used', c.fallback_used, 'attempts', c.attempts, 'external_id', c.external_id, 'due_at', c.due_at,
        'started_at', c.started_at, 'ended_at', c.ended_at, 'error', c.error, 'compensation', c.compensation,
        'transaction_id', c.transaction_id), at)::wedding_events ORDER BY c.number)
      INTO changed FROM numbered c;
      seq := seq + coalesce(cardinality(changed), 0);
      told := told || changed;
    END IF;

    part := item #> '{outcome,result}';
    IF jsonb_typeof(part) = 'object' THEN
      UPDATE transactions SET status = part ->> 'status', gaps = part -> 'gaps', result = coalesce(result, part),
        error = nullif(part -> 'error', 'null'),
        started_at = coalesce(started_at, (part ->> 'started_at')::timestamptz),
        ended_at = CASE WHEN part ->> 'status' NOT IN ('waiting', 'held', 'running', 'rolling_back')
          THEN (part ->> 'ended_at')::timestamptz END,
        handed_off_at = coalesce(handed_off_at,
          CASE WHEN part ->> 'status' NOT IN ('waiting', 'held', 'running', 'rolling_back')
            THEN (part ->> 'ended_at')::timestamptz END),
        version = ((item #>> '{outcome,version}')::bigint + epoch)
      WHERE id = part ->> 'id' AND wedding_id = wedding AND version < ((item #>> '{outcome,version}')::bigint + epoch);
      settled := FOUND;
      IF settled THEN
        seq := seq + 1;
        told := told || ROW(organization, wedding, seq, 'transaction', jsonb_build_object('id', part -> 'id',
          'kind', part -> 'kind', 'status', part -> 'status', 'gaps', part -> 'gaps'), at)::wedding_events;
      END IF;
    END IF;

    FOR part IN SELECT value FROM jsonb_array_elements(item -> 'moves') LOOP
      UPDATE transactions SET status = part ->> 'status', gaps = part -> 'gaps',
        ended_at = CASE WHEN part ->> 'status' NOT IN ('waiting', 'held', 'running', 'rolling_back')
          THEN coalesce(ended_at, at) END,
        error = coalesce(nullif(part -> 'error', 'null'), error), handed_off_at = coalesce(handed_off_at, at),
        version = ((part ->> 'version')::bigint + epoch)
      WHERE id = part ->> 'id' AND wedding_id = wedding AND version < ((part ->> 'version')::bigint + epoch)
      RETURNING kind INTO kind_found;
      IF FOUND THEN
        seq := seq + 1;
        told := told || ROW(organization, wedding, seq, 'transaction', jsonb_build_object('id', part -> 'id',
          'kind', kind_found, 'status', part -> 'status', 'gaps', part -> 'gaps'), at)::wedding_events;
      END IF;
    END LOOP;

    FOR part IN SELECT value FROM jsonb_array_elements(item -> 'events') LOOP
      seq := seq + 1;
      told := told || ROW(organization, wedding, seq, part ->> 'type', part -> 'data', at)::wedding_events;
    END LOOP;

    part := item -> 'wedding';
    IF jsonb_typeof(part) = 'object' THEN
      WITH before AS (SELECT ceremony_local, zone, ceremony_at FROM weddings WHERE id = wedding)
      UPDATE weddings w SET status = part ->> 'status', phase = part ->> 'phase', mode = part ->> 'mode',
        plan_version = (part ->> 'plan_version')::int, ceremony_local = part ->> 'ceremony_local',
        zone = part ->> 'zone', ceremony_at = (part ->> 'ceremony_at')::timestamptz, updated_at = at,
        ended_at = CASE WHEN part ->> 'status' IN ('cancelled', 'ended') THEN coalesce(ended_at, at) END,
        version = ((part ->> 'version')::bigint + epoch)
      FROM before b WHERE w.id = wedding AND w.version < ((part ->> 'version')::bigint + epoch)
      RETURNING jsonb_build_object('local', b.ceremony_local, 'zone', b.zone, 'instant', b.ceremony_at) INTO moved;
      IF FOUND THEN
        seq := seq + 1;
        told := told || ROW(organization, wedding, seq, 'wedding', jsonb_build_object('id', wedding,
          'status', part -> 'status', 'phase', part -> 'phase', 'mode', part -> 'mode',
          'plan_version', part -> 'plan_version'), at)::wedding_events;
        IF (moved ->> 'local', moved ->> 'zone') = (part ->> 'ceremony_local', part ->> 'zone') THEN
          moved := NULL;
        END IF;
      END IF;
    END IF;

    part := item -> 'audit';
    IF settled AND jsonb_typeof(item #> '{outcome,audit}') = 'object' THEN
      part := part || (item #> '{outcome,audit}');
    END IF;
    IF jsonb_array_length(part) > 0 THEN
      INSERT INTO audit_log (organization_id, at, actor, action, subject, detail)
      SELECT organization, at, 'system:worker', a.action, a.subject, a.detail
      FROM jsonb_to_recordset(part) AS a(action text, subject text, detail jsonb);
    END IF;

    has_answers := has_answers OR jsonb_typeof(item -> 'answer') = 'object';
    taken[place] := jsonb_build_object('claim', claim - 'started', 'has_settled', settled,
      'previous_ceremony', moved, 'first_event', CASE WHEN seq >= first THEN first END,
      'last_event', CASE WHEN seq >= first THEN seq END);
  END LOOP;

  IF cardinality(told) > 0 THEN
    INSERT INTO wedding_events (organization_id, wedding_id, id, type, data, created_at)
    SELECT e.organization_id, e.wedding_id, e.id, e.type, e.data, e.created_at FROM unnest(told) e;
    UPDATE weddings w SET event_seq = n.last
    FROM (SELECT e.wedding_id, max(e.id) AS last FROM unnest(told) e GROUP BY e.wedding_id) n
    WHERE w.id = n.wedding_id;
    PERFORM pg_notify('wedding_events', n.wedding_id) FROM (SELECT DISTINCT e.wedding_id FROM unnest(told) e) n;
  END IF;

  IF has_answers THEN
    INSERT INTO read_answers AS r (organization_id, question, vendor, facts, answered_at)
    SELECT DISTINCT ON (w ->> 'organization_id', w #>> '{answer,question}') w ->> 'organization_id',
      w #>> '{answer,question}', w #>> '{answer,vendor}', w #> '{answer,facts}', (w ->> 'now')::timestamptz
    FROM jsonb_array_elements(writes) WITH ORDINALITY AS a(w, nth)
    WHERE jsonb_typeof(w -> 'answer') = 'object' AND taken[nth] ->> 'contested_by' IS NULL
    ORDER BY w ->> 'organization_id', w #>> '{answer,question}', (w ->> 'now')::timestamptz DESC
    ON CONFLICT (organization_id, question) DO UPDATE
      SET vendor = EXCLUDED.vendor, facts = EXCLUDED.facts, answered_at = EXCLUDED.answered_at
      WHERE r.answered_at <= EXCLUDED.answered_at;
  END IF;

  RETURN jsonb_build_object('writes', to_jsonb(taken), 'listened_to', (
    SELECT coalesce(jsonb_agg(DISTINCT s.organization_id), '[]') FROM webhook_subscriptions s
    WHERE s.status <> 'deleted' AND s.organization_id IN (SELECT e.organization_id FROM unnest(told) e)));
END
$$
