-- stg_metrics: every metric of the newest grading of every try, with what its evaluation says about itself.
--
-- Grain    one row per (evaluation_id, run_id, score_version, subtask, metric, filter)
-- Rule     graded twice by one scorer version: the newest grading as a whole wins, never a mixture of two;
--          a metric whose evaluation is not landed does not exist
-- Columns  recorded_at: when it was graded · evaluated_at: when it was asked · n_samples: of the evaluation
-- Reader   the marts
WITH newest_grading AS (
    SELECT DISTINCT *
    FROM metrics
    QUALIFY rank() OVER (
        PARTITION BY evaluation_id, run_id, score_version
        ORDER BY recorded_at DESC, score_run_id DESC
    ) = 1
)

SELECT
    newest_grading.*,
    evaluation.is_within_budget,
    evaluation.n_samples,
    evaluation.recorded_at AS evaluated_at
FROM newest_grading
INNER JOIN stg_evaluations AS evaluation USING (evaluation_id, run_id)
