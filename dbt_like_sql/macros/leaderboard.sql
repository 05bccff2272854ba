-- leaderboard: who is best on each benchmark, by its headline metric, as of any moment.
--
-- macro: leaderboard(as_of := NULL)
-- Takes    as_of: a moment, as a timestamp, a date or text; UTC unless it names an offset. What was recorded after it is
--          not there. Null: now
-- Grain    one row per (model_key, benchmark)
-- Rule     the latest headline number over the whole benchmark; ranked in the metric's own direction, ties share a
--          rank; a model of which nothing could be graded is listed without a rank. rank_best and rank_worst: the ranks
--          that the 95 % intervals leave open, 1 + those that are surely better, to all but those that are surely worse;
--          a model whose number has no interval is taken at its value
-- Columns  rank: 1 is best · rank_best, rank_worst: from overlapping intervals; models whose ranges overlap are tied ·
--          n_ranked: models with a rank on this benchmark · benchmark: its name · model_key: family@revision · family,
--          revision: its parts · step: of training, if the revision names one · metric, filter: the headline · value, stderr, ci_low, ci_high: in the
--          metric's unit · bound_low, bound_high: if every ungraded sample were 0 or 1 · n: graded samples ·
--          n_asked: samples asked · coverage: graded / asked, 0..1 · higher_is_better: the metric's direction ·
--          fingerprint: of the model's bytes · ask_version, score_version: of the benchmark ·
--          evaluation_id, run_id: the try · evaluated_at: asked, UTC · recorded_at: graded, UTC
-- Reader   "which model is best at this", never without coverage; overlapping intervals are no difference
WITH headline AS (
    SELECT
        *,
        CASE WHEN higher_is_better THEN value ELSE -value END AS merit,
        coalesce(CASE WHEN higher_is_better THEN ci_low ELSE -ci_high END, merit) AS merit_low,
        coalesce(CASE WHEN higher_is_better THEN ci_high ELSE -ci_low END, merit) AS merit_high
    FROM latest_metrics(as_of := as_of)
    WHERE is_headline AND subtask = ''
),

ends AS (
    SELECT benchmark, model_key, merit_low AS merit, true AS is_low
    FROM headline
    WHERE value IS NOT NULL
    UNION ALL
    SELECT benchmark, model_key, merit_high AS merit, false AS is_low
    FROM headline
    WHERE value IS NOT NULL
),

-- a sweep over the ends of all intervals, because comparing all pairs takes seconds for thousands of models
swept AS (
    SELECT
        benchmark,
        model_key,
        is_low,
        count(*) FILTER (is_low) OVER from_best AS n_surely_better,
        count(*) FILTER (NOT is_low) OVER from_worst AS n_surely_worse
    FROM ends
    WINDOW
        from_best AS (PARTITION BY benchmark ORDER BY merit DESC, is_low ROWS UNBOUNDED PRECEDING),
        from_worst AS (PARTITION BY benchmark ORDER BY merit, is_low DESC ROWS UNBOUNDED PRECEDING)
),

ranges AS (
    SELECT
        benchmark,
        model_key,
        max(n_surely_better) FILTER (NOT is_low) AS n_surely_better,
        max(n_surely_worse) FILTER (is_low) AS n_surely_worse
    FROM swept
    GROUP BY benchmark, model_key
)

SELECT
    headline.benchmark,
    CASE
        WHEN headline.value IS NOT NULL
            THEN rank() OVER (PARTITION BY headline.benchmark ORDER BY headline.merit DESC NULLS LAST)
    END AS rank,
    ranges.n_surely_better + 1 AS rank_best,
    count(headline.value) OVER (PARTITION BY headline.benchmark) - ranges.n_surely_worse AS rank_worst,
    count(headline.value) OVER (PARTITION BY headline.benchmark) AS n_ranked,
    headline.model_key,
    headline.family,
    headline.revision,
    headline.step,
    headline.metric,
    headline.filter,
    headline.value,
    headline.stderr,
    headline.ci_low,
    headline.ci_high,
    headline.bound_low,
    headline.bound_high,
    headline.n,
    headline.n_asked,
    headline.coverage,
    headline.higher_is_better,
    headline.fingerprint,
    headline.ask_version,
    headline.score_version,
    headline.evaluation_id,
    headline.run_id,
    headline.evaluated_at,
    headline.recorded_at
FROM headline
LEFT JOIN ranges USING (benchmark, model_key)
ORDER BY headline.benchmark, rank NULLS LAST, headline.model_key
