-- stg_compared_cells: whose verdicts each row of comparisons is made from.
--
-- materialized: table
-- Grain    one row per (model_b, benchmark, against, side)
-- Rule     as compared_cells; a comparison stands while both its rows here stay the same
-- Columns  side: a or b, of which the row tells · model_key, evaluation_id, run_id: whose answers ·
--          score_version, score_run_id, recorded_at, metric, filter: which grading of them
-- Reader   comparisons
WITH compared AS (
    SELECT
        key_b AS model_b,
        unnest(against) AS against,
        cell_a,
        cell_b
    FROM compared_cells()
)

SELECT model_b, against, 'a' AS side, unnest(cell_a)
FROM compared
UNION ALL
SELECT model_b, against, 'b' AS side, unnest(cell_b)
FROM compared
ORDER BY benchmark, model_b, against, side
