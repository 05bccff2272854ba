-- ranked_numbers_are_comparable: a benchmark whose latest numbers come from more than one version of it.
--
-- test: latest_metrics
SELECT benchmark, count(DISTINCT (ask_version, score_version)) AS n_versions
FROM latest_metrics
GROUP BY benchmark
HAVING count(DISTINCT (ask_version, score_version)) > 1
