-- leaderboard_overall: one number per model over the benchmarks that all of them have.
--
-- Grain    one row per (model_key)
-- Rule     the plain mean of headline values over common benchmarks: those on which every listed model has a value, and
--          whose headline is a share (0..1, higher is better; a perplexity has no place in a mean). Without a common
--          benchmark nobody has a mean: it would compare different exams
-- Columns  rank: 1 is best · model_key: family@revision · family, revision: its parts · step: of training, if the revision names
--          one · macro_average: 0..1 · n_common: benchmarks in it · n_benchmarks: benchmarks this model has a value on ·
--          min_coverage: the worst coverage (graded / asked) among the common ones, or among its own if none is common ·
--          recorded_at: the newest grading among them, UTC
-- Reader   "which model is best over all", together with n_common
WITH valued AS (
    SELECT * FROM leaderboard WHERE value IS NOT NULL
),

common AS (
    SELECT benchmark
    FROM valued
    GROUP BY benchmark
    HAVING
        count(*) = (SELECT count(DISTINCT model_key) FROM valued)
        AND bool_and(higher_is_better)
        AND min(value) >= 0
        AND max(value) <= 1
),

per_model AS (
    SELECT
        valued.model_key,
        valued.family,
        valued.revision,
        valued.step,
        avg(valued.value) FILTER (common.benchmark IS NOT NULL) AS macro_average,
        count(common.benchmark) AS n_common,
        count(*) AS n_benchmarks,
        coalesce(min(valued.coverage) FILTER (common.benchmark IS NOT NULL), min(valued.coverage)) AS min_coverage,
        max(valued.recorded_at) AS recorded_at
    FROM valued
    LEFT JOIN common USING (benchmark)
    GROUP BY valued.model_key, valued.family, valued.revision, valued.step
)

SELECT
    CASE WHEN macro_average IS NOT NULL THEN rank() OVER (ORDER BY macro_average DESC NULLS LAST) END AS rank,
    *
FROM per_model
ORDER BY rank NULLS LAST, model_key
