-- history: how a family of models did on a benchmark, number by number, the newest checkpoint last.
--
-- macro: history(model_family, benchmark := NULL)
-- Takes    model_family: the family, or one model as family@revision · benchmark: its name. Null: all
-- Grain    one row per (evaluation_id, run_id, score_version, metric, filter)
-- Rule     headline numbers over the whole benchmark, every one that was ever graded; is_comparable tells those of the
--          benchmark's newest version from the older ones. In the order of stg_checkpoints, of one model by when it was asked
-- Columns  benchmark: its name · model_key: family@revision · family, revision: its parts · step: of training, if the revision
--          names one · metric, filter: the headline · value, ci_low, ci_high: in the metric's unit · n: graded samples ·
--          coverage: graded / asked, 0..1 · is_latest: the number that is quoted · is_comparable: of the version that is quoted ·
--          is_within_budget: too many failures if false · fingerprint: of the bytes · ask_version, score_version: of the
--          benchmark · evaluation_id, run_id: the try · evaluated_at: asked, UTC · recorded_at: graded, UTC
-- Reader   "how did it develop", "did it get worse", "what was it before the prompt changed"
SELECT
    h.benchmark,
    h.model_key,
    h.family,
    h.revision,
    h.step,
    h.metric,
    h.filter,
    h.value,
    h.ci_low,
    h.ci_high,
    h.n,
    h.coverage,
    h.is_latest,
    (h.benchmark, h.ask_version, h.score_version) IN (
        SELECT (newest.benchmark, newest.ask_version, newest.score_version) FROM latest_metrics AS newest
    ) AS is_comparable,
    h.is_within_budget,
    h.fingerprint,
    h.ask_version,
    h.score_version,
    h.evaluation_id,
    h.run_id,
    h.evaluated_at,
    h.recorded_at
FROM metric_history AS h
INNER JOIN stg_checkpoints AS c USING (model_key)
WHERE
    h.is_headline
    AND h.subtask = ''
    AND (h.family = model_family OR h.model_key = model_family)
    AND (benchmark IS NULL OR h.benchmark = benchmark)
ORDER BY h.benchmark, h.family, c.place, h.evaluated_at, h.recorded_at
