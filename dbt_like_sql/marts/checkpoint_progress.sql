-- checkpoint_progress: how each family's numbers develop over its training steps.
--
-- grouped by: benchmark
-- Grain    one row per (model_key, benchmark, metric, filter)
-- Rule     the latest numbers over whole benchmarks, of models whose revision names a step; the predecessor is the family's
--          checkpoint before it that has this number, on the same version of the benchmark. As in compare, what other judges
--          graded, or what was read through other interceptors, is set against nothing: no change to such a predecessor,
--          and no best of both. Changes are signed as the metric is: for a perplexity, down is better. change_stderr takes
--          both as independent; the same questions were asked, so it is too wide: the macro compare is paired
-- Columns  family: what is trained · benchmark, metric, filter: what is measured · is_headline: the number people quote ·
--          step: of training · model_key, revision: the checkpoint · value, stderr, ci_low, ci_high: in the metric's unit ·
--          n: graded samples · coverage: graded / asked, 0..1 · higher_is_better: the metric's direction ·
--          previous_step, previous_model_key: the predecessor; null for the first · is_comparable: its number compares with
--          this one, or why_not_comparable says why not; null for the first · previous_value: of the predecessor, if it
--          compares · change: value - previous_value · change_stderr: its standard error, unpaired ·
--          change_per_1k_steps: change / steps between them × 1,000 · best_so_far: best value up to this step, of those that
--          compare with it · is_best_so_far: none of these before it was as good ·
--          n_checkpoints: of the family, with this number ·
--          fingerprint: of the checkpoint's bytes · ask_version, score_version: of the benchmark · recorded_at: graded, UTC
-- Reader   "is training still paying off", "where did it turn"
WITH checkpoints AS (
    SELECT
        *,
        lag(step) OVER steps AS previous_step,
        lag(model_key) OVER steps AS previous_model_key,
        -- two that are null are equal within a pair; only a missing predecessor is unknown
        lag((judged_by, graded_as)) OVER steps = (judged_by, graded_as) AS is_comparable,
        count(*) OVER (PARTITION BY family, benchmark, metric, filter) AS n_checkpoints
    FROM latest_metrics
    WHERE subtask = '' AND step IS NOT NULL
    WINDOW steps AS (PARTITION BY family, benchmark, metric, filter ORDER BY step, revision)
),

beside AS (
    SELECT
        *,
        -- what is comparable stands next to it among its like, too
        CASE WHEN is_comparable THEN lag(value) OVER alike END AS previous_value,
        CASE WHEN is_comparable THEN lag(stderr) OVER alike END AS previous_stderr,
        CASE WHEN higher_is_better THEN max(value) OVER so_far ELSE min(value) OVER so_far END AS best_so_far,
        CASE WHEN higher_is_better THEN max(value) OVER before ELSE min(value) OVER before END AS best_before
    FROM checkpoints
    WINDOW
        alike AS (PARTITION BY family, benchmark, metric, filter, judged_by, graded_as ORDER BY step, revision),
        so_far AS (alike ROWS UNBOUNDED PRECEDING),
        before AS (alike ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)

SELECT
    family,
    benchmark,
    metric,
    filter,
    is_headline,
    step,
    model_key,
    revision,
    value,
    stderr,
    ci_low,
    ci_high,
    n,
    coverage,
    higher_is_better,
    previous_step,
    previous_model_key,
    is_comparable,
    previous_value,
    value - previous_value AS change,
    sqrt(stderr ** 2 + previous_stderr ** 2) AS change_stderr,
    (value - previous_value) / nullif(step - previous_step, 0) * 1000 AS change_per_1k_steps,
    best_so_far,
    CASE
        WHEN value IS NULL THEN false
        WHEN best_before IS NULL THEN true
        WHEN higher_is_better THEN value > best_before
        ELSE value < best_before
    END AS is_best_so_far,
    n_checkpoints,
    fingerprint,
    ask_version,
    score_version,
    recorded_at
FROM beside
ORDER BY family, benchmark, metric, filter, step, revision
