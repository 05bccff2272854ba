-- evaluation_versions: all that a number rests on: which bytes, questions, scorer, settings, server and code.
--
-- materialized: view
-- Grain    one row per (evaluation_id, run_id, score_version)
-- Rule     every grading of every try, as metric_history has it; parts that decide whether two numbers compare come first
-- Columns  evaluation_id, run_id: the try · benchmark: what was asked · ask_version: of prompts, data and generation ·
--          score_version: of the scorer · graded_as: JSON of what answers were read through; null: as they came ·
--          judged_by: JSON of the judges and their versions; null without judges ·
--          parameters: JSON of limit, few-shot, protocol, generation · model_key: who was asked · fingerprint: of its bytes ·
--          backend, server_version: who served it · endpoint: where · n_samples: asked · coverage: graded / asked, 0..1 ·
--          is_within_budget: false if too many requests failed · project_version: of this code · asked_by: who or what started the run ·
--          score_run_id: the run that graded · evaluated_at: asked, UTC · recorded_at: graded, UTC · is_latest: what latest_metrics quotes
-- Reader   "where does this number come from"; why_not_comparable sets two of them side by side
WITH gradings AS (
    SELECT
        m.evaluation_id,
        m.run_id,
        m.score_version,
        m.score_run_id,
        m.recorded_at,
        any_value(m.graded_as) AS graded_as,
        any_value(m.judged_by) AS judged_by,
        max(m.coverage) FILTER (m.is_headline AND m.subtask = '') AS coverage,
        bool_or(m.is_latest) AS is_latest
    FROM metric_history AS m
    GROUP BY m.evaluation_id, m.run_id, m.score_version, m.score_run_id, m.recorded_at
)

SELECT
    e.evaluation_id,
    e.run_id,
    e.benchmark,
    e.ask_version,
    g.score_version,
    g.graded_as,
    g.judged_by,
    e.parameters,
    e.model_key,
    e.fingerprint,
    e.backend,
    e.server_version,
    e.endpoint,
    e.n_samples,
    g.coverage,
    e.is_within_budget,
    e.project_version,
    e.asked_by,
    g.score_run_id,
    e.recorded_at AS evaluated_at,
    g.recorded_at,
    g.is_latest
FROM gradings AS g
INNER JOIN stg_evaluations AS e USING (evaluation_id, run_id)
