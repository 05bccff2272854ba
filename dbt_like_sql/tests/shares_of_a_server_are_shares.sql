-- shares_of_a_server_are_shares: a server that says more than all of its memory is in use, or that it found more tokens
-- in its cache than it looked up: the name of a metric is mapped to a wrong one.
--
-- test: stg_server_metrics
SELECT evaluation_id, run_id, replica, scraped_at, kv_cache_share, prefix_cache_hits, prefix_cache_queries
FROM stg_server_metrics
WHERE
    kv_cache_share NOT BETWEEN 0 AND 1 + 1e-6
    OR prefix_cache_hits > prefix_cache_queries
