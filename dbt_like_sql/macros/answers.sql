-- answers: what a model answered to a question, what was taken from it, and how it was graded.
--
-- macro: answers(model, benchmark, question := NULL)
-- Takes    model: family@revision · benchmark: its name · question: a sample id, its last part, or, if there is no
--          such sample, words of the question. Null: all
-- Grain    one row per (sample_id, subtask, metric, filter)
-- Rule     the scores behind the latest number; responses holds all that was asked for the sample, in order: the choices
--          of a log-likelihood benchmark, or repeats. A failed request has a failure_kind and no text
-- Columns  sample_id, subtask: which question · metric, filter: which verdict · question, target, choices: of the sample ·
--          answer: the text, where the sample is one request · responses: part, repeat, text, reasoning, logprob, failure_kind,
--          finish_reason and asked_at (UTC) of each request · extracted: what was graded · value: null = ungraded ·
--          ungraded_reason: why · note: what is to be known of the graded answer · coverage: of the metric, graded / asked, 0..1 ·
--          evaluation_id, run_id: the try · graded_as: JSON of what answers were read through; null: as they came ·
--          judged_by: JSON of the judges and their versions; null without judges
-- Reader   "what did it say", "why is this wrong"
WITH cell AS (
    SELECT
        l.evaluation_id,
        l.run_id,
        l.score_version,
        l.score_run_id,
        l.recorded_at,
        l.fingerprint,
        l.ask_version,
        l.metric,
        l.filter,
        l.graded_as,
        l.judged_by,
        any_value(l.coverage) FILTER (l.subtask = '') AS coverage
    FROM latest_metrics AS l
    WHERE l.model_key = model AND l.benchmark = benchmark
    GROUP BY ALL
),

-- straight from the segments, because a filter on the model must reach them
verdicts AS (
    SELECT DISTINCT s.*, cell.coverage, cell.graded_as, cell.judged_by
    FROM scores AS s
    INNER JOIN cell USING (evaluation_id, run_id, score_version, score_run_id, recorded_at, metric, filter)
    WHERE s.model_key = model AND s.benchmark = benchmark
),

asked AS (
    SELECT
        r.sample_id,
        r.part,
        r.repeat,
        r.text,
        r.reasoning,
        r.logprob,
        r.failure_kind,
        r.finish_reason,
        r.asked_at
    FROM responses AS r
    INNER JOIN (SELECT DISTINCT cell.fingerprint, cell.ask_version FROM cell) AS one USING (fingerprint)
    WHERE r.model_key = model AND r.benchmark = benchmark
    QUALIFY row_number() OVER (
        PARTITION BY r.sample_id, r.part, r.repeat
        ORDER BY r.ask_version = one.ask_version DESC, r.asked_at DESC
    ) = 1
),

said AS (
    SELECT asked.sample_id, list(asked ORDER BY asked.part, asked.repeat) AS responses
    FROM asked
    GROUP BY asked.sample_id
)

SELECT * EXCLUDE (how_named)
FROM (
    SELECT
        v.sample_id,
        v.subtask,
        v.metric,
        v.filter,
        q.question,
        q.target,
        q.choices,
        CASE WHEN len(said.responses) = 1 THEN said.responses[1].text END AS answer,
        said.responses,
        v.extracted,
        v.value,
        v.ungraded_reason,
        v.note,
        v.coverage,
        v.evaluation_id,
        v.run_id,
        v.graded_as,
        v.judged_by,
        CASE
            WHEN v.sample_id = question THEN 1
            WHEN split_part(v.sample_id, '/', -1) = question THEN 2
            WHEN contains(lower(q.question), lower(question)) THEN 3
        END AS how_named
    FROM verdicts AS v
    LEFT JOIN stg_samples AS q ON v.benchmark = q.benchmark AND v.ask_version = q.ask_version AND v.sample_id = q.sample_id
    LEFT JOIN said ON v.sample_id = said.sample_id
)
QUALIFY question IS NULL OR how_named = min(how_named) OVER ()
ORDER BY sample_id, metric, filter
