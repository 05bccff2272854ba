-- stg_gate_verdicts: what gates said, every time.
--
-- Grain    one row per (gate, model_key, run_id, benchmark)
-- Rule     a verdict that was landed twice (its step was retried within one run) keeps its newest record
-- Columns  benchmark: empty for the gate as a whole · evidence: changes with the evaluations and the policy judged by
-- Reader   the marts; the sensor that judges again when the evidence or the rules changed
SELECT *
FROM gate_verdicts
QUALIFY row_number() OVER (PARTITION BY gate, model_key, run_id, benchmark ORDER BY recorded_at DESC) = 1
