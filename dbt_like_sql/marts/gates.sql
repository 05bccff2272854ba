-- gates: what each gate says of each model, and of each of its benchmarks.
--
-- Grain    one row per (gate, model_key, benchmark)
-- Rule     the newest verdict of a gate on a model; earlier ones are in stg_gate_verdicts. The row whose benchmark is
--          empty is the gate's own
-- Columns  gate: its name in evals.yaml · model_key, family, revision, step: the model · run_id: the run that judged ·
--          benchmark: empty for the gate as a whole · verdict: GO, NO-GO or INCONCLUSIVE of the gate; within, breach,
--          inconclusive or lacking of a benchmark · reason: in words · tier: critical, supporting or advisory ·
--          is_required: without it there is no GO · baseline: the model it was compared with · metric, filter: by which ·
--          n: questions both were graded on; where the metric is not the mean of its verdicts, those of the one with fewer ·
--          value, baseline_value: on these, in the metric's unit; or as they are quoted ·
--          difference: value - baseline_value · ci_low, ci_high: its interval at 1 - 2 * significance ·
--          min_detectable: smallest drop that 80 % of such comparisons find · p_breach, p_within: one-sided, of "the limit
--          is kept" (corrected for several limits) and of "it is broken" · significance: of the policy ·
--          policy: the gate as JSON · evidence: changes with the evaluations and the policy · recorded_at: judged, UTC ·
--          judging_version: of the project's rules, by which it was judged; null: before they had one
-- Reader   "may this checkpoint go on", "what stood in its way"
SELECT *
FROM stg_gate_verdicts
QUALIFY rank() OVER (PARTITION BY gate, model_key ORDER BY recorded_at DESC, run_id DESC) = 1
ORDER BY gate, family, step, model_key, benchmark
