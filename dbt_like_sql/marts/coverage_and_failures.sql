-- coverage_and_failures: how each try went: what was answered, what was not, and why.
--
-- Grain    one row per (evaluation_id, run_id)
-- Rule     failures are counted by kind and never graded; coverage is that of the headline metric of the newest grading
-- Columns  n_*: requests by outcome · failed_share: failed / requests, 0..1 · coverage: graded / asked samples, 0..1,
--          null until graded · n_truncated: of the answers of this try, cut at their length limit · latency_*, wall_s: seconds · *_tokens: as the server counted · recorded_at: UTC
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
