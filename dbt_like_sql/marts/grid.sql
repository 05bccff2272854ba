-- grid: what there is and what is missing, every model by every benchmark.
--
-- Grain    one row per (model_key, benchmark)
-- Rule     models and benchmarks are those that were ever asked, other than as judges, and those that evals.yaml configures
--          (as far as it is on record: `eval-pipelines publish` and a sensor see to that). The newest try decides:
--          missing      never asked
--          over_budget  too many of its requests failed; an older number may still stand (has_number)
--          asked        answered, not graded yet
--          outdated     graded on an older version of the benchmark: not comparable, ask or grade again
--          overwritten  its number is of older bytes: another benchmark was asked of newer ones since
--          scored       stands in latest_metrics
--          missing, over_budget, outdated and overwritten are to be run again
-- Columns  model_key: family@revision · benchmark: its name · status: as above ·
--          is_wanted: evals.yaml asks for it by itself: a checkpoint in a watched folder, a benchmark of its suite; false: it
--          does not, or no longer (its checkpoint is gone); null: no evals.yaml is on record ·
--          has_number: latest_metrics has this cell · coverage: of its headline, 0..1 ·
--          evaluated_at: newest try, UTC; null if there is none · recorded_at: the number's grading, UTC; null if there is none
-- Reader   "what do we still have to run"
WITH newest AS (
    SELECT *
    FROM stg_evaluations
    WHERE judged_model IS NULL
    QUALIFY row_number() OVER (PARTITION BY model_key, benchmark ORDER BY recorded_at DESC, run_id) = 1
),

numbers AS (
    SELECT
        model_key,
        benchmark,
        max(recorded_at) AS recorded_at,
        any_value(fingerprint) AS fingerprint,
        max(coverage) FILTER (is_headline AND subtask = '') AS coverage
    FROM latest_metrics
    GROUP BY model_key, benchmark
),

bytes AS (
    SELECT model_key, arg_max(fingerprint, recorded_at) AS fingerprint
    FROM stg_evaluations
    GROUP BY model_key
),

graded AS (
    SELECT DISTINCT evaluation_id, run_id FROM stg_metrics
),

known AS (
    SELECT model_key, benchmark FROM stg_evaluations WHERE judged_model IS NULL
    UNION ALL
    SELECT model_key, benchmark FROM stg_configured
),

cells AS (
    SELECT models.model_key, benchmarks.benchmark
    FROM (SELECT DISTINCT model_key FROM known WHERE model_key <> '') AS models
    CROSS JOIN (SELECT DISTINCT benchmark FROM known WHERE benchmark <> '') AS benchmarks
)

SELECT
    cells.model_key,
    cells.benchmark,
    CASE
        WHEN newest.run_id IS NULL THEN 'missing'
        WHEN NOT newest.is_within_budget THEN 'over_budget'
        WHEN
            numbers.fingerprint <> bytes.fingerprint
            AND (newest.fingerprint <> bytes.fingerprint OR graded.run_id IS NOT NULL) THEN 'overwritten'
        WHEN numbers.fingerprint <> bytes.fingerprint THEN 'asked'
        WHEN numbers.model_key IS NOT NULL THEN 'scored'
        WHEN graded.run_id IS NOT NULL THEN 'outdated'
        ELSE 'asked'
    END AS status,
    CASE WHEN (SELECT count(*) > 0 FROM stg_configured) THEN wanted.since IS NOT NULL END AS is_wanted,
    numbers.model_key IS NOT NULL AS has_number,
    numbers.coverage,
    newest.recorded_at AS evaluated_at,
    numbers.recorded_at
FROM cells
LEFT JOIN newest USING (model_key, benchmark)
LEFT JOIN numbers USING (model_key, benchmark)
LEFT JOIN graded USING (evaluation_id, run_id)
LEFT JOIN bytes USING (model_key)
LEFT JOIN stg_configured AS wanted USING (model_key, benchmark)
ORDER BY cells.model_key, cells.benchmark
