-- servers_count_what_they_answered: a server that counted fewer generated tokens than its answers had: it restarted
-- meanwhile, looks at it failed, or a replica tells no metrics.
--
-- test: serving_performance
-- severity: warn
SELECT evaluation_id, run_id, completion_tokens, server_generation_tokens, n_scrapes, n_failed_scrapes
FROM serving_performance
WHERE server_generation_tokens < completion_tokens
