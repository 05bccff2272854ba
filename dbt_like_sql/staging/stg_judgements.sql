-- stg_judgements: every single answer of every judge, as the newest grading read it.
--
-- Grain    one row per (evaluation_id, run_id, score_version, sample_id, answer_repeat, judge, is_swapped, repeat)
-- Rule     metrics are the commit: judgements whose grading left no metrics belong to a run that was killed
-- Reader   the marts
WITH graded AS (
    SELECT DISTINCT evaluation_id, run_id, score_version, score_run_id, recorded_at
    FROM stg_metrics
)

SELECT DISTINCT judgements.*
FROM judgements
SEMI JOIN graded USING (evaluation_id, run_id, score_version, score_run_id, recorded_at)
