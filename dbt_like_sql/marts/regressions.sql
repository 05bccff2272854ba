-- regressions: where a checkpoint is worse than a baseline by more than chance, all its benchmarks taken together.
--
-- Grain    one row per (model_b, benchmark, against)
-- Rule     rows of comparisons that are worse and stay so (5 %) after the correction of Benjamini and Hochberg over the
--          benchmarks of the checkpoint: of what is listed, 5 % is expected to be chance. Holm's correction is stricter:
--          the chance of listing anything by mistake is 5 %. Where the number that is quoted is no mean of verdicts (a
--          perplexity, an F1), it must be worse, too
-- Columns  model_b: the checkpoint · model_a: its baseline · against: previous or best · family, step: of the checkpoint ·
--          benchmark, metric, filter: by what · n: questions both were graded on · mean_a, mean_b: of verdicts ·
--          difference: mean_b - mean_a · ci_low, ci_high: its 95 % interval, not corrected · n_a_only, n_b_only: questions
--          on which a, or b, has the higher verdict · n_tests: benchmarks compared · p_value: of this test alone ·
--          p_benjamini_hochberg, p_holm: corrected for n_tests · is_certain: p_holm is below 0.05 too
-- Reader   "what broke, and when"
WITH ranked AS (
    SELECT
        *,
        coalesce(p_value, 1) AS p,
        count(*) OVER checkpoint AS n_tests,
        row_number() OVER (checkpoint ORDER BY coalesce(p_value, 1), benchmark) AS place
    FROM comparisons
    WINDOW checkpoint AS (PARTITION BY model_b, against)
),

corrected AS (
    SELECT
        *,
        max(least(1, (n_tests - place + 1) * p))
            OVER (PARTITION BY model_b, against ORDER BY place ROWS UNBOUNDED PRECEDING) AS p_holm,
        min(least(1, p * n_tests / place))
            OVER (PARTITION BY model_b, against ORDER BY place DESC ROWS UNBOUNDED PRECEDING) AS p_benjamini_hochberg
    FROM ranked
)

SELECT
    model_b,
    model_a,
    against,
    family,
    step,
    benchmark,
    metric,
    filter,
    n,
    mean_a,
    mean_b,
    difference,
    ci_low,
    ci_high,
    n_a_only,
    n_b_only,
    n_tests,
    p_value,
    p_benjamini_hochberg,
    p_holm,
    p_holm < 0.05 AS is_certain
FROM corrected
WHERE
    verdict = 'worse'
    AND p_benjamini_hochberg < 0.05
    AND (is_mean OR CASE WHEN higher_is_better THEN value_b < value_a ELSE value_b > value_a END)
