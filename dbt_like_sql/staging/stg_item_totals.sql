-- stg_item_totals: sums over models for every question, from which its difficulty and discrimination follow.
--
-- materialized: table
-- sums over: latest_metrics
-- Grain    one row per (benchmark, ask_version, score_version, sample_id, subtask, metric, filter)
-- Rule     one summand per model that was graded on the question, from the evaluation that latest_metrics quotes, by its
--          headline metric. The rest is the model's mean over its other questions: a question must not explain itself.
--          Every column outside the grain is a sum over models
-- Columns  benchmark, ask_version, score_version, sample_id, subtask, metric, filter: the question and how it was graded ·
--          n_models: graded on it · sum_value, sum_value_2: of values, of their squares · n_best, n_worst: values of 1, of 0 ·
--          n_rest: models with another question · sum_of_value, sum_of_value_2: as above, over these · sum_rest, sum_rest_2: of
--          rests, of their squares · sum_product: of value × rest
-- Reader   item_analysis
WITH cells AS (
    SELECT DISTINCT model_key, benchmark, evaluation_id, run_id, score_version, metric, filter
    FROM latest_metrics
    WHERE is_headline AND subtask = ''
),

verdicts AS (
    SELECT s.*
    FROM stg_scores AS s
    SEMI JOIN cells USING (model_key, benchmark, evaluation_id, run_id, score_version, metric, filter)
    WHERE s.value IS NOT NULL
),

by_model AS (
    SELECT evaluation_id, run_id, score_version, metric, filter, sum(value) AS total, count(*) AS n
    FROM verdicts
    GROUP BY evaluation_id, run_id, score_version, metric, filter
),

with_rest AS (
    SELECT
        v.*,
        (m.total - v.value) / nullif(m.n - 1, 0) AS rest,
        CASE WHEN m.n > 1 THEN v.value END AS value_with_rest
    FROM verdicts AS v
    INNER JOIN by_model AS m USING (evaluation_id, run_id, score_version, metric, filter)
)

SELECT
    benchmark,
    ask_version,
    score_version,
    sample_id,
    subtask,
    metric,
    filter,
    count(*) AS n_models,
    sum(value) AS sum_value,
    sum(value * value) AS sum_value_2,
    count(*) FILTER (value = 1) AS n_best,
    count(*) FILTER (value = 0) AS n_worst,
    count(rest) AS n_rest,
    coalesce(sum(value_with_rest), 0) AS sum_of_value,
    coalesce(sum(value_with_rest * value_with_rest), 0) AS sum_of_value_2,
    coalesce(sum(rest), 0) AS sum_rest,
    coalesce(sum(rest * rest), 0) AS sum_rest_2,
    coalesce(sum(value_with_rest * rest), 0) AS sum_product
FROM with_rest
GROUP BY benchmark, ask_version, score_version, sample_id, subtask, metric, filter
