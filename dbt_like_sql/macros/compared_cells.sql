-- compared_cells: which cell is compared with which: what compare reads the verdicts of.
--
-- macro: compared_cells(model_a := NULL, model_b := NULL)
-- Takes    model_a, model_b: as for compare
-- Grain    one row per (key_a, key_b, benchmark)
-- Rule     by the headline metric, latest numbers only; not where other judges graded, nor, within a family, where answers
--          were read through other interceptors. The best one before has 20 questions and 95 % coverage at least
-- Columns  key_a, key_b: family@revision · against: list of previous, best, or named · benchmark: its name ·
--          cell_a, cell_b: which grading of which evaluation each number is from · n_of_a, n_of_b: graded questions of each ·
--          value_a, value_b: the numbers that are quoted ·
--          family, step: of b · metric, filter: by what · higher_is_better: the metric's direction ·
--          ask_version, score_version: of the benchmark
-- Reader   compare and stg_compared_cells; no verdict is read for it
WITH board AS (
    SELECT
        l.model_key,
        l.family,
        l.step,
        l.benchmark,
        l.metric,
        l.filter,
        l.value,
        l.n,
        l.coverage,
        l.higher_is_better,
        l.ask_version,
        l.score_version,
        l.judged_by,
        l.graded_as,
        struct_pack(
            model_key := l.model_key,
            benchmark := l.benchmark,
            evaluation_id := l.evaluation_id,
            run_id := l.run_id,
            score_version := l.score_version,
            score_run_id := l.score_run_id,
            recorded_at := l.recorded_at,
            metric := l.metric,
            filter := l.filter
        ) AS cell,
        c.place
    FROM latest_metrics AS l
    INNER JOIN stg_checkpoints AS c USING (model_key)
    WHERE l.is_headline AND l.subtask = '' AND l.value IS NOT NULL
),

before AS (
    SELECT
        *,
        lag(model_key) OVER in_order AS previous_key,
        arg_max(model_key, CASE WHEN higher_is_better THEN value ELSE -value END)
            FILTER (n >= 20 AND coverage >= 0.95)
            OVER (in_order ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS best_key
    FROM board
    WINDOW in_order AS (PARTITION BY family, benchmark, metric, filter ORDER BY place)
),

wanted AS (
    SELECT b.*, unnest(
        CASE
            WHEN model_a IS NULL
                THEN [{'key_a': b.previous_key, 'against': 'previous'}, {'key_a': b.best_key, 'against': 'best'}]
            ELSE [{'key_a': model_a::VARCHAR, 'against': 'named'}]
        END,
        recursive := true
    )
    FROM before AS b
    WHERE model_b IS NULL OR b.model_key = model_b
)

SELECT
    w.key_a,
    w.model_key AS key_b,
    list_sort(list(w.against)) AS against,
    w.benchmark,
    any_value(a.cell) AS cell_a,
    any_value(w.cell) AS cell_b,
    any_value(a.n) AS n_of_a,
    any_value(w.n) AS n_of_b,
    any_value(a.value) AS value_a,
    any_value(w.value) AS value_b,
    any_value(w.family) AS family,
    any_value(w.step) AS step,
    any_value(w.metric) AS metric,
    any_value(w.filter) AS filter,
    any_value(w.higher_is_better) AS higher_is_better,
    any_value(w.ask_version) AS ask_version,
    any_value(w.score_version) AS score_version
FROM wanted AS w
INNER JOIN board AS a ON w.key_a = a.model_key AND w.benchmark = a.benchmark AND w.metric = a.metric AND w.filter = a.filter
WHERE
    -- the same answers judged by another model are another exam
    a.judged_by IS NOT DISTINCT FROM w.judged_by
    -- what stands around a model's requests belongs to its family: between two families it may differ
    AND (a.graded_as IS NOT DISTINCT FROM w.graded_as OR a.family <> w.family)
    AND a.model_key <> w.model_key
GROUP BY w.key_a, w.model_key, w.benchmark
