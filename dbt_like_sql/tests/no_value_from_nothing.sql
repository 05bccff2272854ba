-- no_value_from_nothing: a number although no sample was graded: an outage that reads as a score.
--
-- test: stg_metrics
SELECT evaluation_id, run_id, subtask, metric, filter, value, n
FROM stg_metrics
WHERE n = 0 AND value IS NOT NULL
