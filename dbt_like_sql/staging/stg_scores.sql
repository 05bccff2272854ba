-- stg_scores: every verdict of the newest grading of every try.
--
-- Grain    one row per (evaluation_id, run_id, score_version, sample_id, subtask, metric, filter)
-- Rule     metrics are the commit: scores whose grading left no metrics belong to a run that was killed
-- Reader   the marts
WITH graded AS (
    SELECT DISTINCT evaluation_id, run_id, score_version, score_run_id, recorded_at
    FROM stg_metrics
)

SELECT DISTINCT scores.*
FROM scores
SEMI JOIN graded USING (evaluation_id, run_id, score_version, score_run_id, recorded_at)
