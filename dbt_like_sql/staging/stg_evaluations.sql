-- stg_evaluations: every try at an evaluation, once.
--
-- materialized: table
-- grouped by: evaluation_id, run_id
-- Grain    one row per (evaluation_id, run_id)
-- Rule     a try that was landed twice (its step was retried within one run) keeps its newest record
-- Reader   the marts
SELECT *
FROM stg_evaluations(as_of := NULL)
