-- sample_judgements: what each judge said behind the latest numbers, answer by answer, with question and target.
--
-- materialized: view
-- Grain    one row per (model_key, benchmark, sample_id, answer_repeat, judge, is_swapped, repeat)
-- Rule     the judgements of the evaluations that latest_metrics chose; a judge that failed, or whose answer holds no
--          verdict, has a row without a verdict and the reason
-- Columns  model_key: whose answer was judged · benchmark, sample_id, subtask: the question · answer_repeat: which answer of
--          the model · judge: model key of the judge · is_swapped: the judged answer stood second; null where it stood alone ·
--          repeat: which answer of the judge · verdict: the label or number, or win, loss, tie of the judged answer ·
--          value: 0..1, null without a verdict · no_verdict_reason: judge_unparseable, judge_timeout … ·
--          no_verdict_why: in words · text: what the judge wrote · score: what all judges together made of the sample,
--          null if ungraded · question, target: of the sample · judge_fingerprint: the judge's version ·
--          judge_evaluation_id: in which it was asked · request_digest: what it was asked · fingerprint: of the judged model ·
--          ask_version, score_version: of the benchmark · evaluation_id, run_id: the judged try · recorded_at: of the grading, UTC
-- Reader   "why did it lose", "which judge is harsh", "where do the judges disagree"
WITH cells AS (
    SELECT DISTINCT latest.evaluation_id, latest.run_id, latest.score_version
    FROM latest_metrics AS latest
),

together AS (
    SELECT evaluation_id, run_id, score_version, sample_id, value AS score
    FROM stg_scores
    WHERE metric IN ('judge_score', 'win_rate') AND filter = 'none'
)

SELECT
    judgements.model_key,
    judgements.benchmark,
    judgements.sample_id,
    judgements.subtask,
    judgements.answer_repeat,
    judgements.judge,
    judgements.is_swapped,
    judgements.repeat,
    judgements.verdict,
    judgements.value,
    judgements.no_verdict_reason,
    judgements.no_verdict_why,
    judgements.text,
    together.score,
    samples.question,
    samples.target,
    judgements.judge_fingerprint,
    judgements.judge_evaluation_id,
    judgements.request_digest,
    judgements.fingerprint,
    judgements.ask_version,
    judgements.score_version,
    judgements.evaluation_id,
    judgements.run_id,
    judgements.recorded_at
FROM stg_judgements AS judgements
SEMI JOIN cells USING (evaluation_id, run_id, score_version)
LEFT JOIN together USING (evaluation_id, run_id, score_version, sample_id)
LEFT JOIN stg_samples AS samples USING (benchmark, ask_version, sample_id)
