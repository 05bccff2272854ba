-- no_verdict_has_a_reason: a judgement that has a verdict and a reason why there is none, or neither, or no value in 0..1.
--
-- test: stg_judgements
SELECT evaluation_id, run_id, sample_id, judge, verdict, value, no_verdict_reason
FROM stg_judgements
WHERE
    (verdict IS NULL) <> (no_verdict_reason IS NOT NULL)
    OR (verdict IS NULL) <> (value IS NULL)
    OR value NOT BETWEEN 0 AND 1
