-- stg_configured: what the configurations of this record ask for now.
--
-- Grain    one row per (model_key, benchmark)
-- Rule     the newest word of each evals.yaml counts, and of several files what any of them holds. Each says something once
--          a day: one that is silent for a week while others are not is taken for gone
-- Columns  model_key, benchmark: both: finished checkpoints of watched folders, by the benchmarks of their suite; a model
--          alone: there is one; a benchmark alone: there is one; neither: the file as such · since: UTC
-- Reader   grid
WITH told AS (
    SELECT configured_by, model_key, benchmark, max(recorded_at) AS since
    FROM configured
    GROUP BY configured_by, model_key, benchmark
    HAVING arg_max(is_configured, recorded_at)
),

heard AS (
    SELECT configured_by, max(recorded_at) AS heard_at
    FROM configured
    GROUP BY configured_by
)

SELECT model_key, benchmark, min(since) AS since
FROM told
INNER JOIN heard USING (configured_by)
WHERE heard_at > (SELECT max(recorded_at) FROM configured) - INTERVAL 7 DAY
GROUP BY model_key, benchmark
