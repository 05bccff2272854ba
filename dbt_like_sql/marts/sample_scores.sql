-- sample_scores: the verdicts behind the latest numbers, sample by sample, with question, target and answer.
--
-- materialized: view
-- Grain    one row per (model_key, benchmark, sample_id, subtask, metric, filter)
-- Rule     the scores of the evaluations that latest_metrics chose. The answer is shown where the sample is one
--          request: what was asked for this benchmark version before what was asked for another (an unchanged
--          question is asked once and reused), then the newest
-- Columns  model_key: family@revision · benchmark, sample_id, subtask: which question · metric, filter: which verdict ·
--          value: null = ungraded · ungraded_reason: why · extracted: what was taken from the answer ·
--          note: what is to be known of the graded answer, such as unfinished reasoning · question, target, choices: of the
--          sample · answer: the model's text · failure_kind: why there is none · coverage: of the metric, graded / asked, 0..1 ·
--          fingerprint: of the model's bytes · ask_version, score_version: of the benchmark · evaluation_id, run_id: the try ·
--          recorded_at: graded, UTC
-- Reader   "why is this number what it is"; a view over the landed Parquet: name a model and a benchmark
WITH cells AS (
    -- names are qualified because the macro answers has a parameter of that name
    SELECT DISTINCT
        latest.model_key,
        latest.benchmark,
        latest.fingerprint,
        latest.ask_version,
        latest.evaluation_id,
        latest.run_id,
        latest.score_version
    FROM latest_metrics AS latest
),

answers AS (
    SELECT
        cells.model_key,
        cells.benchmark,
        responses.sample_id,
        count(DISTINCT (responses.part, responses.repeat)) AS n_requests,
        arg_max(
            struct_pack(text := responses.text, failure_kind := responses.failure_kind),
            struct_pack(is_same := responses.ask_version = cells.ask_version, asked_at := responses.asked_at)
        ) AS newest
    FROM responses
    INNER JOIN cells USING (model_key, benchmark, fingerprint)
    GROUP BY cells.model_key, cells.benchmark, responses.sample_id
),

coverages AS (
    SELECT evaluation_id, run_id, score_version, metric, filter, coverage
    FROM latest_metrics
    WHERE subtask = ''
)

SELECT
    scores.model_key,
    scores.benchmark,
    scores.sample_id,
    scores.subtask,
    scores.metric,
    scores.filter,
    scores.value,
    scores.extracted,
    scores.ungraded_reason,
    scores.note,
    samples.question,
    samples.target,
    samples.choices,
    CASE WHEN answers.n_requests = 1 THEN answers.newest.text END AS answer,
    CASE WHEN answers.n_requests = 1 THEN answers.newest.failure_kind END AS failure_kind,
    coverages.coverage,
    scores.fingerprint,
    scores.ask_version,
    scores.score_version,
    scores.evaluation_id,
    scores.run_id,
    scores.recorded_at
FROM stg_scores AS scores
SEMI JOIN cells USING (evaluation_id, run_id, score_version)
LEFT JOIN coverages USING (evaluation_id, run_id, score_version, metric, filter)
LEFT JOIN stg_samples AS samples USING (benchmark, ask_version, sample_id)
LEFT JOIN answers USING (model_key, benchmark, sample_id)
