-- value_lies_within_its_interval: a share whose value lies outside its confidence interval, its bounds, or 0..1.
--
-- test: stg_metrics
SELECT evaluation_id, run_id, subtask, metric, filter, value, ci_low, ci_high, bound_low, bound_high
FROM stg_metrics
WHERE
    value NOT BETWEEN coalesce(ci_low, value) - 1e-9 AND coalesce(ci_high, value) + 1e-9
    OR value NOT BETWEEN coalesce(bound_low, value) - 1e-9 AND coalesce(bound_high, value) + 1e-9
    OR (bound_low IS NOT NULL AND value NOT BETWEEN 0 AND 1)
