-- leaderboard: who is best on each benchmark, by its headline metric.
--
-- Grain    one row per (model_key, benchmark)
-- Rule     the latest headline number over the whole benchmark; ranked in the metric's own direction, ties share a
--          rank; a model of which nothing could be graded is listed without a rank
-- Columns  rank: 1 is best · n_ranked: models with a rank on this benchmark · value, stderr, ci_*: the metric's unit ·
--          n: graded samples · coverage: graded / asked, 0..1 · recorded_at: UTC
-- Reader   "which model is best at this", never without coverage; overlapping intervals are no difference
SELECT *
FROM leaderboard(as_of := NULL)
ORDER BY benchmark, rank NULLS LAST, model_key
