-- stg_metrics: every metric of the newest grading of every try, as of any moment.
--
-- macro: stg_metrics(as_of := NULL)
-- Takes    as_of: a moment in UTC; what was recorded after it is not there. Null: now
-- Grain    one row per (evaluation_id, run_id, score_version, subtask, metric, filter)
-- Rule     graded twice by one scorer version: the newest grading as a whole wins, never a mixture of two;
--          a metric whose evaluation is not landed does not exist
-- Columns  those of the landed metrics · recorded_at: when it was graded · evaluated_at: when it was asked ·
--          is_within_budget, n_samples: of the evaluation
-- Reader   the table of the same name, and latest_metrics
WITH newest_grading AS (
    SELECT DISTINCT *
    FROM metrics
    WHERE as_of IS NULL OR recorded_at <= as_of::TIMESTAMP
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
INNER JOIN stg_evaluations(as_of := as_of) AS evaluation USING (evaluation_id, run_id)
