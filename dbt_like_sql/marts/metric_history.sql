-- metric_history: every number that was ever graded, also the ones that no longer compare.
--
-- materialized: view
-- Grain    one row per (evaluation_id, run_id, score_version, subtask, metric, filter)
-- Rule     nothing is dropped: over budget, older versions and older bytes stay, and are marked;
--          a re-grading by the same scorer version replaces the former one
-- Columns  benchmark: its name · subtask: a part of it; empty: the whole · metric, filter: what
--          is measured, after which extraction · value, stderr, ci_low, ci_high: in the metric's unit · bound_low, bound_high: if every
--          ungraded sample were 0 or 1 · n: graded samples · n_asked: samples asked · coverage: graded / asked, 0..1 ·
--          higher_is_better: the metric's direction · is_headline: the number people quote · ci_method: how the interval was made ·
--          n_clusters: groups of questions it takes as one · graded_as: JSON of what answers were read through; null: as they came ·
--          judged_by: JSON of the judges and their versions; null without judges ·
--          model_key: family@revision · family, revision: its parts · step: of training, if the revision names one ·
--          fingerprint: of the model's bytes · ask_version, score_version: of the benchmark · evaluation_id, run_id: the try ·
--          score_run_id: the run that graded · evaluated_at: asked, UTC · recorded_at: graded, UTC ·
--          n_samples: of the evaluation · is_within_budget: too many failures if false · is_latest: the row of latest_metrics
-- Reader   "how did it develop", "what did the old prompt give"
SELECT
    stg_metrics.*,
    latest.evaluation_id IS NOT NULL AS is_latest
FROM stg_metrics
LEFT JOIN latest_metrics AS latest
    USING (evaluation_id, run_id, score_version, score_run_id, subtask, metric, filter)
ORDER BY stg_metrics.benchmark, stg_metrics.model_key, stg_metrics.evaluated_at
