-- stg_samples: every question of every benchmark version, once.
--
-- Grain    one row per (benchmark, ask_version, sample_id)
-- Rule     two processes may have landed the same version at the same moment; they wrote the same rows
-- Reader   the marts
SELECT *
FROM samples
QUALIFY row_number() OVER (PARTITION BY samples.benchmark, ask_version, sample_id ORDER BY n_requests DESC) = 1
