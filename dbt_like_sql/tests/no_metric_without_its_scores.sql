-- no_metric_without_its_scores: a number over graded samples whose evaluation has no verdicts: nobody can retrace it.
--
-- test: stg_metrics
SELECT evaluation_id, run_id, score_version, metric, filter, n
FROM stg_metrics
ANTI JOIN stg_scores USING (evaluation_id, run_id, score_version)
WHERE n > 0
