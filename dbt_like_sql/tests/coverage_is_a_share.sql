-- coverage_is_a_share: a metric whose coverage is not graded / asked, or lies outside 0..1.
--
-- test: stg_metrics
SELECT evaluation_id, run_id, subtask, metric, filter, n, n_asked, coverage
FROM stg_metrics
WHERE
    n > n_asked
    OR coverage IS NULL
    OR coverage NOT BETWEEN 0 AND 1
    OR abs(coverage - coalesce(n / nullif(n_asked, 0), 0)) > 1e-9
