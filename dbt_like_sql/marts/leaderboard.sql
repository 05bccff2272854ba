-- leaderboard: who is best on each benchmark, by its headline metric.
--
-- grouped by: benchmark
-- Grain    one row per (model_key, benchmark)
-- Rule     the latest headline number over the whole benchmark; ranked in the metric's own direction, ties share a
--          rank; a model of which nothing could be graded is listed without a rank. rank_best and rank_worst: the ranks
--          that the 95 % intervals leave open, 1 + those that are surely better, to all but those that are surely worse;
--          a model whose number has no interval is taken at its value
-- Columns  rank: 1 is best · rank_best, rank_worst: from overlapping intervals; models whose ranges overlap are tied ·
--          n_ranked: models with a rank on this benchmark · benchmark: its name · model_key: family@revision · family,
--          revision: its parts · step: of training, if the revision names one · metric, filter: the headline · value, stderr, ci_low, ci_high: in the
--          metric's unit · bound_low, bound_high: if every ungraded sample were 0 or 1 · n: graded samples ·
--          n_asked: samples asked · coverage: graded / asked, 0..1 · higher_is_better: the metric's direction ·
--          fingerprint: of the model's bytes · ask_version, score_version: of the benchmark ·
--          evaluation_id, run_id: the try · evaluated_at: asked, UTC · recorded_at: graded, UTC
-- Reader   "which model is best at this", never without coverage; overlapping intervals are no difference
SELECT *
FROM leaderboard(as_of := NULL)
ORDER BY benchmark, rank NULLS LAST, model_key
