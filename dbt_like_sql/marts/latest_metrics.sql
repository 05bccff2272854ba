-- latest_metrics: the number a person quotes for a model on a benchmark.
--
-- Grain    one row per (model_key, benchmark, subtask, metric, filter)
-- Rule     only evaluations within their failure budget, only the benchmark's newest version count: the ask_version
--          that was asked last and, of it, the score_version that graded last, over all models.
--          Of these a model's newest bytes win, then the most samples, then the newest try: a trial on
--          ten samples does not replace a number over all. Older versions are not comparable: see metric_history
-- Columns  value, stderr, ci_low, ci_high: in the metric's unit · bound_low, bound_high: if every ungraded sample
--          were 0 or 1 · coverage: graded / asked, 0..1 · recorded_at: graded, evaluated_at: asked; UTC
-- Reader   "how good is this model", never without coverage
SELECT *
FROM latest_metrics(as_of := NULL)
ORDER BY benchmark, model_key, subtask, metric, filter
