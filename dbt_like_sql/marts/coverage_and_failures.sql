-- coverage_and_failures: how each try went: what was answered, what was not, and why.
--
-- grouped by: evaluation_id, run_id
-- Grain    one row per (evaluation_id, run_id)
-- Rule     failures are counted by kind and never graded; coverage is that of the headline metric of the newest grading
-- Columns  evaluation_id, run_id: the try · model_key: family@revision · benchmark: its name ·
--          judged_model: whose answers it judged; null where it was no judge ·
--          is_within_budget: false if too many failed · coverage: graded / asked samples, 0..1, null until graded ·
--          failed_share: failed / requests, 0..1 · n_samples: asked · n_requests: of them · n_answered: by the model ·
--          n_reused: known from before · n_failed: in all · n_timeout, n_connection, n_overloaded, n_rejected, n_denied,
--          n_malformed, n_empty, n_context_length, n_content_filter, n_unsupported: failures by kind ·
--          n_truncated: of the answers of this try, cut at their length limit · prompt_tokens, completion_tokens: as the
--          server counted · wall_s, latency_p50_s, latency_p95_s, latency_p99_s: seconds · backend, server_version: who served it ·
--          endpoint: where · asked_by: who or what started the run · fingerprint: of the model's bytes · ask_version: of the
--          benchmark · parameters: JSON · project_version: of this code · recorded_at: UTC
-- Reader   "can I trust this number", "what is wrong with this server"
WITH headline AS (
    SELECT evaluation_id, run_id, arg_max(coverage, recorded_at) AS coverage
    FROM stg_metrics
    WHERE is_headline AND subtask = ''
    GROUP BY evaluation_id, run_id
)

SELECT
    evaluation.evaluation_id,
    evaluation.run_id,
    evaluation.model_key,
    evaluation.benchmark,
    evaluation.judged_model,
    evaluation.is_within_budget,
    headline.coverage,
    evaluation.n_failed / nullif(evaluation.n_requests, 0) AS failed_share,
    evaluation.n_samples,
    evaluation.n_requests,
    evaluation.n_answered,
    evaluation.n_reused,
    evaluation.n_failed,
    coalesce((evaluation.failures ->> 'timeout')::BIGINT, 0) AS n_timeout,
    coalesce((evaluation.failures ->> 'connection')::BIGINT, 0) AS n_connection,
    coalesce((evaluation.failures ->> 'overloaded')::BIGINT, 0) AS n_overloaded,
    coalesce((evaluation.failures ->> 'rejected')::BIGINT, 0) AS n_rejected,
    coalesce((evaluation.failures ->> 'denied')::BIGINT, 0) AS n_denied,
    coalesce((evaluation.failures ->> 'malformed')::BIGINT, 0) AS n_malformed,
    coalesce((evaluation.failures ->> 'empty')::BIGINT, 0) AS n_empty,
    coalesce((evaluation.failures ->> 'context_length')::BIGINT, 0) AS n_context_length,
    coalesce((evaluation.failures ->> 'content_filter')::BIGINT, 0) AS n_content_filter,
    coalesce((evaluation.failures ->> 'unsupported')::BIGINT, 0) AS n_unsupported,
    evaluation.n_truncated,
    evaluation.prompt_tokens,
    evaluation.completion_tokens,
    evaluation.wall_s,
    evaluation.latency_p50_s,
    evaluation.latency_p95_s,
    evaluation.latency_p99_s,
    evaluation.backend,
    evaluation.server_version,
    evaluation.endpoint,
    evaluation.asked_by,
    evaluation.fingerprint,
    evaluation.ask_version,
    evaluation.parameters,
    evaluation.project_version,
    evaluation.recorded_at
FROM stg_evaluations AS evaluation
LEFT JOIN headline USING (evaluation_id, run_id)
ORDER BY evaluation.recorded_at DESC, evaluation.evaluation_id, evaluation.run_id
