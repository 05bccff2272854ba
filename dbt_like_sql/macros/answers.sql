-- answers: what a model answered to a question, what was taken from it, and how it was graded.
--
-- macro: answers(model, benchmark, question := NULL)
-- Takes    model: family@revision · benchmark: its name · question: a sample id, or words of the question. Null: all
-- Grain    one row per (sample_id, subtask, metric, filter)
-- Rule     the scores behind the latest number; responses holds all that was asked for the sample, in order: the choices
--          of a log-likelihood benchmark, or repeats. A failed request has a failure_kind and no text
-- Columns  sample_id, subtask: which question · metric, filter: which verdict · question, target, choices: of the sample ·
--          answer: the text, where the sample is one request · responses: part, repeat, text, reasoning, logprob, failure_kind,
--          finish_reason and asked_at (UTC) of each request · extracted: what was graded · value: null = ungraded ·
--          ungraded_reason: why · note: what is to be known of the graded answer · coverage: of the metric, graded / asked, 0..1 ·
--          evaluation_id, run_id: the try
-- Reader   "what did it say", "why is this wrong"
WITH said AS (
    SELECT
        newest.sample_id,
        list(newest ORDER BY newest.part, newest.repeat) AS responses
    FROM (
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
        INNER JOIN (
            SELECT DISTINCT lm.fingerprint, lm.ask_version
            FROM latest_metrics AS lm
            WHERE lm.model_key = model AND lm.benchmark = benchmark
        ) AS cell USING (fingerprint)
        WHERE r.model_key = model AND r.benchmark = benchmark
        QUALIFY row_number() OVER (
            PARTITION BY r.sample_id, r.part, r.repeat
            ORDER BY r.ask_version = cell.ask_version DESC, r.asked_at DESC
        ) = 1
    ) AS newest
    GROUP BY newest.sample_id
)

SELECT
    s.sample_id,
    s.subtask,
    s.metric,
    s.filter,
    s.question,
    s.target,
    s.choices,
    CASE WHEN len(said.responses) = 1 THEN said.responses[1].text END AS answer,
    said.responses,
    s.extracted,
    s.value,
    s.ungraded_reason,
    s.note,
    s.coverage,
    s.evaluation_id,
    s.run_id
FROM sample_scores AS s
LEFT JOIN said USING (sample_id)
WHERE
    s.model_key = model
    AND s.benchmark = benchmark
    AND (question IS NULL OR s.sample_id = question OR contains(lower(s.question), lower(question)))
ORDER BY s.sample_id, s.metric, s.filter
