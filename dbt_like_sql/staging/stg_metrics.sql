-- stg_metrics: every metric of the newest grading of every try, with what its evaluation says about itself.
--
-- Grain    one row per (evaluation_id, run_id, score_version, subtask, metric, filter)
-- Rule     graded twice by one scorer version: the newest grading as a whole wins, never a mixture of two;
--          a metric whose evaluation is not landed does not exist
-- Columns  recorded_at: when it was graded · evaluated_at: when it was asked · n_samples: of the evaluation
-- Reader   the marts
SELECT *
FROM stg_metrics(as_of := NULL)
