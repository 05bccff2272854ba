-- metric_history: every number that was ever graded, also the ones that no longer compare.
--
-- Grain    one row per (evaluation_id, run_id, score_version, subtask, metric, filter)
-- Rule     nothing is dropped: over budget, older versions and older bytes stay, and are marked;
--          a re-grading by the same scorer version replaces the former one
-- Columns  is_latest: the row of latest_metrics · is_within_budget: too many failures if false ·
--          coverage: graded / asked, 0..1 · step: of training, if the revision names one · recorded_at: UTC
-- Reader   "how did it develop", "what did the old prompt give"
SELECT
    stg_metrics.*,
    latest.evaluation_id IS NOT NULL AS is_latest
FROM stg_metrics
LEFT JOIN latest_metrics AS latest
    USING (evaluation_id, run_id, score_version, score_run_id, subtask, metric, filter)
ORDER BY stg_metrics.benchmark, stg_metrics.model_key, stg_metrics.evaluated_at
