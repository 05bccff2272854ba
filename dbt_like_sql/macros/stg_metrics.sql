-- stg_metrics: every metric of the newest grading of every try, as of any moment.
--
-- macro: stg_metrics(as_of := NULL)
-- Takes    as_of: a moment, as a timestamp, a date or text; UTC unless it names an offset. What was recorded after it is
--          not there. Null: now
-- Grain    one row per (evaluation_id, run_id, score_version, subtask, metric, filter)
-- Rule     graded twice by one scorer version: the newest grading as a whole wins, never a mixture of two;
--          a metric whose evaluation is not landed does not exist
-- Columns  benchmark: its name · subtask: a part of it; empty: the whole · metric, filter: what
--          is measured, after which extraction · value, stderr, ci_low, ci_high: in the metric's unit · bound_low, bound_high: if every
--          ungraded sample were 0 or 1 · n: graded samples · n_asked: samples asked · coverage: graded / asked, 0..1 ·
--          higher_is_better: the metric's direction · is_headline: the number people quote · ci_method: how the interval was made ·
--          n_clusters: groups of questions it takes as one · graded_as: JSON of what answers were read through; null: as they came ·
--          judged_by: JSON of the judges and their versions; null without judges ·
--          model_key: family@revision · family, revision: its parts · step: of training, if the revision names one ·
--          fingerprint: of the model's bytes · ask_version, score_version: of the benchmark · evaluation_id, run_id: the try ·
--          score_run_id: the run that graded · evaluated_at: asked, UTC · recorded_at: graded, UTC ·
--          n_samples: of the evaluation · is_within_budget: too many failures if false
-- Reader   the table of the same name, and latest_metrics
WITH newest_grading AS (
    SELECT DISTINCT *
    FROM metrics
    WHERE
        as_of IS NULL
        -- a moment with an offset says so as text; only then does the session's own time zone play no part in the cast
        OR recorded_at <= CASE
            WHEN regexp_matches(as_of::VARCHAR, ':.*[-+a-zA-Z]') THEN timezone('UTC', as_of::TIMESTAMPTZ)
            ELSE as_of::TIMESTAMP
        END
    QUALIFY rank() OVER (
        PARTITION BY evaluation_id, run_id, score_version
        ORDER BY recorded_at DESC, score_run_id DESC
    ) = 1
)

SELECT
    newest_grading.*,
    evaluation.is_within_budget,
    evaluation.n_samples,
    evaluation.recorded_at AS evaluated_at
FROM newest_grading
INNER JOIN stg_evaluations(as_of := as_of) AS evaluation USING (evaluation_id, run_id)
