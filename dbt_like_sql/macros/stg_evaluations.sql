-- stg_evaluations: every try at an evaluation, once, as of any moment.
--
-- macro: stg_evaluations(as_of := NULL)
-- Takes    as_of: a moment in UTC; what was recorded after it is not there. Null: now
-- Grain    one row per (evaluation_id, run_id)
-- Rule     a try that was landed twice (its step was retried within one run) keeps its newest record
-- Columns  those of the landed evaluations
-- Reader   the table of the same name, and latest_metrics
SELECT *
FROM evaluations
WHERE as_of IS NULL OR recorded_at <= as_of::TIMESTAMP
QUALIFY row_number() OVER (PARTITION BY evaluation_id, run_id ORDER BY recorded_at DESC, n_failed) = 1
