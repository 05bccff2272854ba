-- why_not_comparable: two evaluations side by side, part by part, and what each difference means for comparing them.
--
-- macro: why_not_comparable(evaluation_a, evaluation_b)
-- Takes    evaluation_a, evaluation_b: an evaluation id, `<evaluation id>/<run id>` for one try of several,
--          `<evaluation id>/<run id>/<score version>` for one grading of it, or a model and a benchmark as
--          `<model key>/<benchmark>` for its latest number
-- Grain    one row per (part)
-- Rule     of several tries the one that is quoted, then the newest grading, stands for an evaluation. No row of `forbids`:
--          the numbers compare. A part that differs and forbids: they answer different questions. `weakens`: read with care.
--          `is meant`: what one wants to compare. `tells`: should not matter, but is worth knowing. What was never graded
--          under that name is not found, which one row says
-- Columns  part: a column of evaluation_versions · a, b: its values as text · is_same: they are equal, or both unknown ·
--          verdict: forbids, weakens, is meant or tells; null where they are the same · why: in words
-- Reader   "may I put these two numbers beside each other"
WITH named AS (
    SELECT
        v.*,
        [v.evaluation_id, v.evaluation_id || '/' || v.run_id, v.evaluation_id || '/' || v.run_id || '/' || v.score_version]
        || CASE WHEN v.is_latest THEN [v.model_key || '/' || v.benchmark] ELSE [] END AS names
    FROM evaluation_versions AS v
),

a AS (SELECT * FROM named WHERE list_contains(names, evaluation_a) ORDER BY is_latest DESC, recorded_at DESC, run_id LIMIT 1),

b AS (SELECT * FROM named WHERE list_contains(names, evaluation_b) ORDER BY is_latest DESC, recorded_at DESC, run_id LIMIT 1),

parts AS (
    SELECT unnest([
        {'n': 0, 'part': 'evaluation_id', 'a': a.evaluation_id, 'b': b.evaluation_id, 'verdict': 'is meant', 'why': 'two evaluations'},
        {'n': 1, 'part': 'benchmark', 'a': a.benchmark, 'b': b.benchmark, 'verdict': 'forbids', 'why': 'different exams'},
        {'n': 2, 'part': 'ask_version', 'a': a.ask_version, 'b': b.ask_version, 'verdict': 'forbids',
         'why': 'different questions, prompts, few-shot examples or generation settings'},
        {'n': 3, 'part': 'score_version', 'a': a.score_version, 'b': b.score_version, 'verdict': 'forbids',
         'why': 'graded by different rules: grade the older one again, no model is asked for that'},
        {'n': 4, 'part': 'graded_as', 'a': a.graded_as, 'b': b.graded_as,
         'verdict': CASE WHEN split_part(a.model_key, '@', 1) = split_part(b.model_key, '@', 1) THEN 'forbids' ELSE 'weakens' END,
         'why': 'answers were read through different interceptors before grading, which belong to a family of models'},
        {'n': 5, 'part': 'judged_by', 'a': a.judged_by, 'b': b.judged_by, 'verdict': 'forbids',
         'why': 'judged by other judges, or other versions of them, or beside another baseline'},
        {'n': 6, 'part': 'parameters', 'a': a.parameters, 'b': b.parameters, 'verdict': 'weakens',
         'why': 'settings differ, a limit for example: compare on the questions both have'},
        {'n': 7, 'part': 'is_within_budget', 'a': a.is_within_budget::VARCHAR, 'b': b.is_within_budget::VARCHAR,
         'verdict': 'weakens', 'why': 'too many requests of one of them failed'},
        {'n': 8, 'part': 'coverage', 'a': round(a.coverage, 4)::VARCHAR, 'b': round(b.coverage, 4)::VARCHAR, 'verdict': 'weakens',
         'why': 'unequal shares of the questions were graded'},
        {'n': 9, 'part': 'n_samples', 'a': a.n_samples::VARCHAR, 'b': b.n_samples::VARCHAR, 'verdict': 'weakens',
         'why': 'not as many questions: compare on those both have'},
        {'n': 10, 'part': 'model_key', 'a': a.model_key, 'b': b.model_key, 'verdict': 'is meant', 'why': 'different models'},
        {'n': 11, 'part': 'fingerprint', 'a': a.fingerprint, 'b': b.fingerprint, 'verdict': 'is meant',
         'why': 'different bytes; with one model_key: it was overwritten between them'},
        {'n': 12, 'part': 'backend', 'a': a.backend, 'b': b.backend, 'verdict': 'weakens',
         'why': 'served by different programs: numerics and chat templates may differ'},
        {'n': 13, 'part': 'server_version', 'a': a.server_version, 'b': b.server_version, 'verdict': 'weakens',
         'why': 'served by different versions, or one did not tell'},
        {'n': 14, 'part': 'endpoint', 'a': a.endpoint, 'b': b.endpoint, 'verdict': 'tells', 'why': 'asked at different addresses'},
        {'n': 15, 'part': 'project_version', 'a': a.project_version, 'b': b.project_version, 'verdict': 'tells',
         'why': 'run by different versions of this project'},
        {'n': 16, 'part': 'run_id', 'a': a.run_id, 'b': b.run_id, 'verdict': 'tells', 'why': 'different runs'},
        {'n': 17, 'part': 'asked_by', 'a': a.asked_by, 'b': b.asked_by, 'verdict': 'tells', 'why': 'started by someone else'},
        {'n': 18, 'part': 'evaluated_at', 'a': a.evaluated_at::VARCHAR, 'b': b.evaluated_at::VARCHAR, 'verdict': 'tells',
         'why': 'asked at different times'},
        {'n': 19, 'part': 'recorded_at', 'a': a.recorded_at::VARCHAR, 'b': b.recorded_at::VARCHAR, 'verdict': 'tells',
         'why': 'graded at different times'}
    ], recursive := true)
    FROM a
    CROSS JOIN b
)

SELECT * EXCLUDE (n)
FROM (
    SELECT
        n,
        part,
        a,
        b,
        a IS NOT DISTINCT FROM b AS is_same,
        CASE WHEN a IS DISTINCT FROM b THEN verdict END AS verdict,
        CASE WHEN a IS DISTINCT FROM b THEN why END AS why
    FROM parts
    UNION ALL
    SELECT
        0 AS n,
        'evaluation_id' AS part,
        evaluation_a::VARCHAR AS a,
        evaluation_b::VARCHAR AS b,
        false AS is_same,
        'forbids' AS verdict,
        'not found among what was graded: ' || concat_ws(
            ' and ',
            CASE WHEN NOT EXISTS (FROM a) THEN coalesce(evaluation_a::VARCHAR, 'null') END,
            CASE WHEN NOT EXISTS (FROM b) THEN coalesce(evaluation_b::VARCHAR, 'null') END
        ) AS why
    WHERE NOT EXISTS (FROM a) OR NOT EXISTS (FROM b)
)
ORDER BY n
