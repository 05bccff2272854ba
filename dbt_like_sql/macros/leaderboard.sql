-- leaderboard: who is best on each benchmark, by its headline metric, as of any moment.
--
-- macro: leaderboard(as_of := NULL)
-- Takes    as_of: a moment in UTC; what was recorded after it is not there. Null: now
-- Grain    one row per (model_key, benchmark)
-- Rule     the latest headline number over the whole benchmark; ranked in the metric's own direction, ties share a
--          rank; a model of which nothing could be graded is listed without a rank
-- Columns  rank: 1 is best · n_ranked: models with a rank on this benchmark · value, stderr, ci_*: the metric's unit ·
--          n: graded samples · coverage: graded / asked, 0..1 · recorded_at: UTC
-- Reader   "which model is best at this", never without coverage; overlapping intervals are no difference
SELECT
    benchmark,
    CASE
        WHEN value IS NOT NULL THEN
            rank() OVER (
                PARTITION BY benchmark
                ORDER BY CASE WHEN higher_is_better THEN value ELSE -value END DESC NULLS LAST
            )
    END AS rank,
    count(value) OVER (PARTITION BY benchmark) AS n_ranked,
    model_key,
    family,
    revision,
    step,
    metric,
    filter,
    value,
    stderr,
    ci_low,
    ci_high,
    bound_low,
    bound_high,
    n,
    n_asked,
    coverage,
    higher_is_better,
    fingerprint,
    ask_version,
    score_version,
    evaluation_id,
    run_id,
    evaluated_at,
    recorded_at
FROM latest_metrics(as_of := as_of)
WHERE is_headline AND subtask = ''
ORDER BY benchmark, rank NULLS LAST, model_key
