-- failures_add_up: a try whose failures by kind are not as many as it says failed.
--
-- test: stg_evaluations
-- severity: warn
SELECT evaluation_id, run_id, n_requests, n_failed, failures
FROM stg_evaluations
WHERE
    n_failed > n_requests
    OR n_failed <> coalesce(
        list_sum(list_transform(json_keys(failures), lambda kind: (failures ->> kind)::BIGINT)), 0
    )
