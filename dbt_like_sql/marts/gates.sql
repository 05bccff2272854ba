-- gates: what each gate says of each model, and of each of its benchmarks.
--
-- Grain    one row per (gate, model_key, benchmark)
-- Rule     the newest verdict of a gate on a model; earlier ones are in stg_gate_verdicts. The row whose benchmark is
--          empty is the gate's own
-- Columns  verdict: GO, NO-GO or INCONCLUSIVE of the gate; within, breach, inconclusive or lacking of a benchmark ·
--          reason: in words · tier: critical, supporting, advisory · baseline: what it was compared with ·
--          value, baseline_value, difference, ci_low, ci_high: in the metric's unit, on the n questions both were graded
--          on, the interval at 1 - 2 * significance · p_breach, p_within: one-sided, of "the limit is kept" and of "it
--          is broken" · min_detectable: smallest drop that 80 % of such comparisons find · recorded_at: UTC
-- Reader   "may this checkpoint go on", "what stood in its way"
SELECT *
FROM stg_gate_verdicts
QUALIFY rank() OVER (PARTITION BY gate, model_key ORDER BY recorded_at DESC, run_id DESC) = 1
ORDER BY gate, family, step, model_key, benchmark
