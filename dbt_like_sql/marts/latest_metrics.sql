-- latest_metrics: the number a person quotes for a model on a benchmark.
--
-- grouped by: benchmark
-- Grain    one row per (model_key, benchmark, subtask, metric, filter)
-- Rule     only evaluations within their failure budget, only the benchmark's newest version count: the ask_version
--          that was asked last and, of it, the score_version that graded last, over all models.
--          Of these a model's newest bytes win, then the most samples, then the newest try: a trial on
--          ten samples does not replace a number over all. Older versions are not comparable: see metric_history
-- Columns  benchmark: its name · subtask: a part of it; empty: the whole · metric, filter: what
--          is measured, after which extraction · value, stderr, ci_low, ci_high: in the metric's unit · bound_low, bound_high: if every
--          ungraded sample were 0 or 1 · n: graded samples · n_asked: samples asked · coverage: graded / asked, 0..1 ·
--          higher_is_better: the metric's direction · is_headline: the number people quote · ci_method: how the interval was made ·
--          n_clusters: groups of questions it takes as one · graded_as: JSON of what answers were read through; null: as they came ·
--          judged_by: JSON of the judges and their versions; null without judges ·
--          model_key: family@revision · family, revision: its parts · step: of training, if the revision names one ·
--          fingerprint: of the model's bytes · ask_version, score_version: of the benchmark · evaluation_id, run_id: the try ·
--          score_run_id: the run that graded · evaluated_at: asked, UTC · recorded_at: graded, UTC
-- Reader   "how good is this model", never without coverage
SELECT *
FROM latest_metrics(as_of := NULL)
ORDER BY benchmark, model_key, subtask, metric, filter
