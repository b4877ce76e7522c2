-- Claim a transaction for a workflow run by compare-and-set, and show it as running when it has not begun yet.
-- Called by write_projections, which holds the wedding's row. `started` says whether it began just now.
CREATE FUNCTION claim_transaction(organization text, wedding text, wanted jsonb, at timestamptz) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  held transactions;
  run text := wanted ->> 'run_id';
  is_settled boolean;
  has_started boolean;
BEGIN
  SELECT * INTO held FROM transactions WHERE id = wanted ->> 'id' FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    INSERT INTO transactions (id, organization_id, wedding_id, kind, status, gaps, request, step_ids, requested_at)
    VALUES (wanted ->> 'id', organization, wedding, wanted ->> 'kind', 'running', '[]', wanted -> 'request',
      wanted -> 'step_ids', at)
    RETURNING * INTO held;
  ELSIF (held.organization_id, held.wedding_id) <> (organization, wedding) THEN
    RAISE 'transaction % is not of wedding %', held.id, wedding USING ERRCODE = 'foreign_key_violation';
  END IF;
  is_settled := held.result IS NOT NULL OR held.status NOT IN ('running', 'rolling_back');
  IF NOT is_settled AND (held.run_id IS NULL OR held.run_id = wanted ->> 'continued_from') THEN
    has_started := held.version < 1;
    UPDATE transactions t SET run_id = run,
      status = CASE WHEN has_started THEN 'running' ELSE t.status END,
      step_ids = CASE WHEN has_started THEN wanted -> 'step_ids' ELSE t.step_ids END,
      started_at = CASE WHEN has_started THEN coalesce(t.started_at, at) ELSE t.started_at END,
      handed_off_at = CASE WHEN has_started THEN coalesce(t.handed_off_at, at) ELSE t.handed_off_at END,
      version = greatest(t.version, 1)
    WHERE id = held.id RETURNING * INTO held;
  END IF;
  RETURN jsonb_build_object('run_id', coalesce(held.run_id, run), 'started', coalesce(has_started, false),
    'settled_status', CASE WHEN is_settled THEN held.status END, 'settled_result', held.result);
END
$$
