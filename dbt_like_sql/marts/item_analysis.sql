-- item_analysis: what each question is worth: how hard it is, whether it tells good models from bad, whether its label is right.
--
-- grouped by: benchmark
-- Grain    one row per (benchmark, sample_id, subtask, metric, filter)
-- Rule     over the models with a latest number on the benchmark, one each, by the headline metric; ungraded answers do not
--          count. Discrimination is the correlation of the value with the model's mean over its other questions
--          (point-biserial for 0/1). A label is suspected where nobody of 5 or more models is right, or where the better
--          models fail: of 8 or more, discrimination of -0.2 or less that chance alone gives once in a hundred (t-test, one-sided).
--          With hundreds of questions some suspicions are chance: look at the answers
-- Columns  benchmark, sample_id, subtask, metric, filter: the question and how it is graded · n_models: graded on it ·
--          mean_value: in the metric's unit · difficulty: 1 - mean_value, for metrics in 0..1; null for others ·
--          discrimination: -1..1; null with fewer than 3 models, or where all models have the same value ·
--          is_always_right, is_never_right: every model has 1, every model has 0 · suspicion: nobody is right, better models fail,
--          or null · question, target: of the sample · ask_version, score_version: of the benchmark
-- Reader   "which questions tell my models apart", "which labels should somebody look at"
WITH moments AS (
    SELECT
        *,
        sum_value / n_models AS mean_value,
        n_rest * sum_product - sum_of_value * sum_rest AS covariance,
        n_rest * sum_of_value_2 - sum_of_value ** 2 AS variance,
        n_rest * sum_rest_2 - sum_rest ** 2 AS rest_variance
    FROM stg_item_totals
),

correlated AS (
    SELECT
        *,
        -- sums of floats: what is zero by right may be 1e-16
        CASE
            WHEN n_rest >= 3 AND variance > 1e-9 AND rest_variance > 1e-9
                THEN greatest(-1, least(1, covariance / sqrt(variance * rest_variance)))
        END AS discrimination
    FROM moments
),

bounded AS (
    SELECT benchmark, metric, filter, bool_and(higher_is_better AND value BETWEEN 0 AND 1) AS is_share
    FROM latest_metrics
    WHERE is_headline AND subtask = '' AND value IS NOT NULL
    GROUP BY benchmark, metric, filter
)

SELECT
    item.benchmark,
    item.sample_id,
    item.subtask,
    item.metric,
    item.filter,
    item.n_models,
    item.mean_value,
    CASE WHEN bounded.is_share THEN 1 - item.mean_value END AS difficulty,
    item.discrimination,
    bounded.is_share AND item.n_best = item.n_models AS is_always_right,
    bounded.is_share AND item.n_worst = item.n_models AS is_never_right,
    CASE
        WHEN NOT bounded.is_share THEN NULL
        WHEN item.n_worst = item.n_models AND item.n_models >= 5 THEN 'nobody is right'
        WHEN
            item.discrimination <= -0.2
            AND item.n_rest >= 8
            -- the 1 % point of Student's t, by the first terms of Fisher's expansion
            AND item.discrimination * sqrt((item.n_rest - 2) / greatest(1 - item.discrimination ** 2, 1e-9))
            <= -(2.3263 + 3.7287 / (item.n_rest - 2) + 5.7189 / (item.n_rest - 2) ** 2)
            THEN 'better models fail'
    END AS suspicion,
    samples.question,
    samples.target,
    item.ask_version,
    item.score_version
FROM correlated AS item
LEFT JOIN bounded USING (benchmark, metric, filter)
LEFT JOIN stg_samples AS samples USING (benchmark, ask_version, sample_id)
ORDER BY item.benchmark, item.discrimination NULLS LAST, item.sample_id
