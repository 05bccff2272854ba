-- stg_checkpoints: the models of each family, in the order in which they were trained.
--
-- Grain    one row per (model_key)
-- Rule     by training step, within one step by revision; models whose revision names none come after those, by when they
--          were first asked
-- Columns  place: 1, 2, 3 … in its family · previous_key: the model before it, null for the first · first_asked_at: UTC
-- Reader   the marts and gates: what a checkpoint is compared with
WITH models AS (
    SELECT model_key, family, revision, step, min(recorded_at) AS first_asked_at
    FROM stg_evaluations
    GROUP BY model_key, family, revision, step
)

SELECT
    *,
    row_number() OVER in_order AS place,
    lag(model_key) OVER in_order AS previous_key
FROM models
WINDOW in_order AS (PARTITION BY family ORDER BY step NULLS LAST, CASE WHEN step IS NULL THEN first_asked_at END, revision)
