-- stg_server_metrics: what the servers told while they were asked, look by look.
--
-- Grain    one row per (evaluation_id, run_id, scraped_at, replica)
-- Rule     a step that was retried within one run was watched anew, counting from zero: its newest watch wins as a whole
-- Columns  counters: since started_at, also over a restart of the server · kv_cache_share: 0..1 ·
--          failure: why a look failed; then there is nothing else
-- Reader   the marts; a chart of one evaluation over time
SELECT *
FROM server_metrics
QUALIFY rank() OVER (PARTITION BY evaluation_id, run_id ORDER BY started_at DESC) = 1
