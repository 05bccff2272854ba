-- serving_performance: how fast each try was served: by our own clock, and as the servers told meanwhile.
--
-- grouped by: evaluation_id, run_id
-- Grain    one row per (evaluation_id, run_id)
-- Rule     ours is what this run put on the wire, null if all was known; server_* is what the servers counted in the same time, whoever asked
--          them, and null where they tell nothing. Means are over time: between two looks half of it is given to each.
--          cost is of what this run was answered, and of what it took over from a killed one; null where evals.yaml has no price
--          for the model.
--          Several replicas: running, waiting and tokens add up, mean shares are averaged, the fullest cache is shown
-- Columns  evaluation_id, run_id: the try · model_key: family@revision · benchmark: its name ·
--          judged_model: whose answers it judged; null where it was no judge · backend, server_version: who
--          served it · n_requests, n_reused: asked in all, known from before · wall_s, watched_s: seconds of asking, of looking ·
--          prompt_tokens_per_s, completion_tokens_per_s: by our clock · server_prompt_tokens_per_s, server_generation_tokens_per_s: by
--          the server's counters · latency_p50_s, latency_p95_s, latency_p99_s: seconds of a request · ttft_p50_s, ttft_p95_s: seconds to
--          the first token; null unless streamed · inter_token_p50_s, inter_token_p95_s: seconds between tokens; null unless streamed ·
--          n_running_mean, n_running_max, n_waiting_mean, n_waiting_max: requests · kv_cache_share_mean, kv_cache_share_max: 0..1 ·
--          prefix_cache_hit_share: of the prompt tokens looked up, 0..1 · server_n_finished, server_n_preempted: requests ·
--          prompt_tokens, completion_tokens: of this run's answers · cost: see the rule · currency: ISO 4217 · server_generation_tokens: as it
--          counted · n_replicas: servers looked at · n_scrapes, n_failed_scrapes: looks at a replica's metrics · fingerprint: of the
--          model's bytes · ask_version: of the benchmark · recorded_at: UTC
-- Reader   "is the server the bottleneck or are we", "did the new version get slower", "what did it cost"
WITH looks AS (
    SELECT
        *,
        date_diff('microsecond', scraped_at, lead(scraped_at) OVER in_time) / 1e6 AS step_s,
        (n_running + lead(n_running) OVER in_time) / 2 AS n_running_in_step,
        (n_waiting + lead(n_waiting) OVER in_time) / 2 AS n_waiting_in_step,
        (kv_cache_share + lead(kv_cache_share) OVER in_time) / 2 AS kv_cache_share_in_step
    FROM stg_server_metrics
    WHERE failure IS NULL
    WINDOW in_time AS (PARTITION BY evaluation_id, run_id, replica ORDER BY scraped_at)
),

by_replica AS (
    SELECT
        evaluation_id,
        run_id,
        replica,
        coalesce(
            sum(n_running_in_step * step_s) / nullif(sum(step_s) FILTER (n_running_in_step IS NOT NULL), 0),
            arg_max(n_running, scraped_at)
        ) AS n_running_mean,
        coalesce(
            sum(n_waiting_in_step * step_s) / nullif(sum(step_s) FILTER (n_waiting_in_step IS NOT NULL), 0),
            arg_max(n_waiting, scraped_at)
        ) AS n_waiting_mean,
        coalesce(
            sum(kv_cache_share_in_step * step_s) / nullif(sum(step_s) FILTER (kv_cache_share_in_step IS NOT NULL), 0),
            arg_max(kv_cache_share, scraped_at)
        ) AS kv_cache_share_mean,
        max(kv_cache_share) AS kv_cache_share_max,
        max(prefix_cache_hits) AS prefix_cache_hits,
        max(prefix_cache_queries) AS prefix_cache_queries,
        max(prompt_tokens) AS prompt_tokens,
        max(generation_tokens) AS generation_tokens,
        max(n_finished) AS n_finished,
        max(n_preempted) AS n_preempted
    FROM looks
    GROUP BY evaluation_id, run_id, replica
),

by_moment AS (
    SELECT evaluation_id, run_id, scraped_at, sum(n_running) AS n_running, sum(n_waiting) AS n_waiting
    FROM looks
    GROUP BY evaluation_id, run_id, scraped_at
),

busiest AS (
    SELECT
        evaluation_id,
        run_id,
        max(n_running)::BIGINT AS n_running_max,
        max(n_waiting)::BIGINT AS n_waiting_max,
        date_diff('microsecond', min(scraped_at), max(scraped_at)) / 1e6 AS watched_s
    FROM by_moment
    GROUP BY evaluation_id, run_id
),

together AS (
    SELECT
        evaluation_id,
        run_id,
        sum(n_running_mean) AS n_running_mean,
        sum(n_waiting_mean) AS n_waiting_mean,
        avg(kv_cache_share_mean) AS kv_cache_share_mean,
        max(kv_cache_share_max) AS kv_cache_share_max,
        sum(prefix_cache_hits) / nullif(sum(prefix_cache_queries), 0) AS prefix_cache_hit_share,
        sum(prompt_tokens)::BIGINT AS prompt_tokens,
        sum(generation_tokens)::BIGINT AS generation_tokens,
        sum(n_finished)::BIGINT AS n_finished,
        sum(n_preempted)::BIGINT AS n_preempted
    FROM by_replica
    GROUP BY evaluation_id, run_id
),

asking AS (
    SELECT evaluation_id, run_id, CASE WHEN n_requests > n_reused AND wall_s > 0 THEN wall_s END AS asking_s
    FROM stg_evaluations
),

scrapes AS (
    SELECT
        evaluation_id,
        run_id,
        count(DISTINCT replica) AS n_replicas,
        count(*) AS n_scrapes,
        count(failure) AS n_failed_scrapes
    FROM stg_server_metrics
    GROUP BY evaluation_id, run_id
)

SELECT
    evaluation.evaluation_id,
    evaluation.run_id,
    evaluation.model_key,
    evaluation.benchmark,
    evaluation.judged_model,
    evaluation.backend,
    evaluation.server_version,
    evaluation.n_requests,
    evaluation.n_reused,
    evaluation.wall_s,
    evaluation.prompt_tokens / asking.asking_s AS prompt_tokens_per_s,
    evaluation.completion_tokens / asking.asking_s AS completion_tokens_per_s,
    together.prompt_tokens / nullif(busiest.watched_s, 0) AS server_prompt_tokens_per_s,
    together.generation_tokens / nullif(busiest.watched_s, 0) AS server_generation_tokens_per_s,
    evaluation.latency_p50_s,
    evaluation.latency_p95_s,
    evaluation.latency_p99_s,
    evaluation.ttft_p50_s,
    evaluation.ttft_p95_s,
    evaluation.inter_token_p50_s,
    evaluation.inter_token_p95_s,
    together.n_running_mean,
    busiest.n_running_max,
    together.n_waiting_mean,
    busiest.n_waiting_max,
    together.kv_cache_share_mean,
    together.kv_cache_share_max,
    together.prefix_cache_hit_share,
    together.n_finished AS server_n_finished,
    together.n_preempted AS server_n_preempted,
    evaluation.prompt_tokens,
    evaluation.completion_tokens,
    evaluation.cost,
    evaluation.currency,
    together.generation_tokens AS server_generation_tokens,
    busiest.watched_s,
    scrapes.n_replicas,
    scrapes.n_scrapes,
    scrapes.n_failed_scrapes,
    evaluation.fingerprint,
    evaluation.ask_version,
    evaluation.recorded_at
FROM stg_evaluations AS evaluation
INNER JOIN asking USING (evaluation_id, run_id)
LEFT JOIN scrapes USING (evaluation_id, run_id)
LEFT JOIN busiest USING (evaluation_id, run_id)
LEFT JOIN together USING (evaluation_id, run_id)
ORDER BY evaluation.recorded_at DESC, evaluation.evaluation_id, evaluation.run_id
