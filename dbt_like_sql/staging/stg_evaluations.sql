-- stg_evaluations: every try at an evaluation, once.
--
-- Grain    one row per (evaluation_id, run_id)
-- Rule     a try that was landed twice (its step was retried within one run) keeps its newest record
-- Reader   the marts
SELECT *
FROM evaluations
QUALIFY row_number() OVER (PARTITION BY evaluation_id, run_id ORDER BY recorded_at DESC, n_failed) = 1
