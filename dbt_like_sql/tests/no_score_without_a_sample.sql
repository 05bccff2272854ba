-- no_score_without_a_sample: a verdict on a sample that was never landed: nobody can look up its question.
--
-- test: stg_scores
SELECT evaluation_id, run_id, benchmark, ask_version, sample_id, metric
FROM stg_scores
ANTI JOIN stg_samples USING (benchmark, ask_version, sample_id)
