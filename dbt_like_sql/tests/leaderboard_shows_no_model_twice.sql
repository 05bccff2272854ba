-- leaderboard_shows_no_model_twice: a model that stands more than once on one benchmark: it has two headline metrics.
--
-- test: leaderboard
SELECT model_key, benchmark, count(*) AS n_rows, list(metric || ' (' || filter || ')') AS metrics
FROM leaderboard
GROUP BY model_key, benchmark
HAVING count(*) > 1
