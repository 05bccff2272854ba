-- latest_metrics: the number a person quotes for a model on a benchmark, as of any moment.
--
-- macro: latest_metrics(as_of := NULL)
-- Takes    as_of: a moment, as a timestamp, a date or text; UTC unless it names an offset. What was recorded after it is
--          not there. Null: now
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
WITH scored AS (
    SELECT * FROM stg_metrics(as_of := as_of) WHERE is_within_budget
),

current_ask AS (
    SELECT benchmark, ask_version
    FROM scored
    QUALIFY row_number() OVER (PARTITION BY benchmark ORDER BY evaluated_at DESC, recorded_at DESC, ask_version) = 1
),

current_version AS (
    SELECT benchmark, ask_version, score_version
    FROM scored
    SEMI JOIN current_ask USING (benchmark, ask_version)
    QUALIFY row_number() OVER (PARTITION BY benchmark ORDER BY recorded_at DESC, score_version) = 1
),

comparable AS (
    SELECT
        *,
        max(evaluated_at) OVER (PARTITION BY model_key, benchmark, fingerprint) AS bytes_seen_at
    FROM scored
    SEMI JOIN current_version USING (benchmark, ask_version, score_version)
),

chosen AS (
    SELECT evaluation_id, run_id, score_version
    FROM comparable
    QUALIFY row_number() OVER (
        PARTITION BY model_key, benchmark
        ORDER BY bytes_seen_at DESC, fingerprint, n_samples DESC, evaluated_at DESC, run_id
    ) = 1
)

SELECT * EXCLUDE (is_within_budget, n_samples)
FROM scored
SEMI JOIN chosen USING (evaluation_id, run_id, score_version)
ORDER BY benchmark, model_key, subtask, metric, filter
