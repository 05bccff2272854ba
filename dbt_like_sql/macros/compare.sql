-- compare: are two models different on the same questions, benchmark by benchmark?
--
-- macro: compare(model_a := NULL, model_b := NULL, margin := NULL)
-- Takes    model_a, model_b: family@revision. Without model_a: the checkpoint before b in its family, and the best one before
--          it; without model_b: every model · margin: differences up to this are of no consequence, in the metric's unit
-- Grain    one row per (model_a, model_b, against, benchmark)
-- Rule     paired: by the headline metric, on the questions both were graded on, latest numbers only; not where other judges
--          graded, nor, within a family, where answers were read through other interceptors. An infinite verdict counts as
--          none. The best one before has 20 questions and 95 % coverage at least. p_value: McNemar's exact test of verdicts
--          that are 0 or 1, Student's t of graded ones (a mean of several answers is), on clusters where questions come in
--          groups. `eval-pipelines compare` resamples graded verdicts instead, and differs in the third digit
-- Columns  model_a, model_b: what is compared; differences are b minus a · against: previous, best, or named ·
--          family, step: of b · benchmark, metric, filter: by what · higher_is_better: the metric's direction ·
--          n: questions both were graded on · n_clusters: groups they come in; null where they do not ·
--          n_only_in_a, n_only_in_b: graded in one only, and left out · mean_a, mean_b: of verdicts, on the shared ones ·
--          value_a, value_b: the numbers that are quoted, each over all of its own questions ·
--          is_mean: they are means of verdicts; false of a perplexity, an F1 or an average of groups, where mean_a and mean_b
--          are still those of single questions ·
--          difference: mean_b - mean_a · ci_low, ci_high: its 95 % interval · ci_method: adjusted_wald, t or clustered ·
--          n_a_only, n_b_only: questions on which a, or b, has the higher verdict · p_value: two-sided; null when none tells
--          them apart · test: mcnemar, t or clustered_t · min_detectable: smallest true difference that 80 % of such
--          comparisons find · verdict: of b: equivalent within the margin, better, worse (5 %, not corrected for several
--          benchmarks: see regressions) or inconclusive · ask_version, score_version: of the benchmark
-- Reader   "did it get better, or is that chance"
WITH pairs AS (
    SELECT * FROM compared_cells(model_a := model_a, model_b := model_b)
),

cells AS (
    SELECT unnest(cell_a) FROM pairs
    UNION
    SELECT unnest(cell_b) FROM pairs
),

-- as stg_scores has them, which would read all of them
verdicts AS (
    SELECT DISTINCT model_key, benchmark, sample_id, subtask, value
    FROM scores
    SEMI JOIN cells
        USING (model_key, benchmark, evaluation_id, run_id, score_version, score_run_id, recorded_at, metric, filter)
    -- of two named models, theirs alone are read
    -- an infinite verdict, such as a perplexity beyond all numbers, is none
    WHERE isfinite(value) AND (model_a IS NULL OR model_b IS NULL OR model_key IN (model_a, model_b))
),

own AS (
    SELECT model_key, benchmark, avg(value) AS mean
    FROM verdicts
    GROUP BY model_key, benchmark
),

groups AS (
    SELECT benchmark, ask_version, sample_id, cluster
    FROM stg_samples
    WHERE cluster IS NOT NULL
),

-- materialized, so that no plan begins with every model's verdicts beside every other's on each question
of_first AS MATERIALIZED (
    SELECT p.key_a, p.key_b, p.benchmark, p.ask_version, v.sample_id, v.subtask, v.value
    FROM pairs AS p
    INNER JOIN verdicts AS v ON p.key_a = v.model_key AND p.benchmark = v.benchmark
),

paired AS (
    SELECT
        a.key_a,
        a.key_b,
        a.benchmark,
        s.cluster,
        a.value AS of_a,
        b.value AS of_b,
        b.value - a.value AS difference
    FROM of_first AS a
    INNER JOIN verdicts AS b
        ON a.key_b = b.model_key AND a.benchmark = b.benchmark AND a.sample_id = b.sample_id AND a.subtask = b.subtask
    LEFT JOIN groups AS s
        ON a.benchmark = s.benchmark AND a.ask_version = s.ask_version AND a.sample_id = s.sample_id
),

-- sums over the questions of each group; those that are alone are a group each, and need not be gathered one by one
units AS (
    SELECT
        key_a,
        key_b,
        benchmark,
        count(*) AS m,
        CASE WHEN cluster IS NULL THEN count(*) ELSE 1 END AS n_units,
        sum(of_a) AS of_a,
        sum(of_b) AS of_b,
        sum(difference) AS total,
        sum(difference ** 2) AS square,
        CASE WHEN cluster IS NULL THEN sum(difference ** 2) ELSE sum(difference) ** 2 END AS total_total,
        CASE WHEN cluster IS NULL THEN sum(difference) ELSE sum(difference) * count(*) END AS total_m,
        CASE WHEN cluster IS NULL THEN count(*) ELSE count(*) ** 2 END AS m_m,
        count(*) FILTER (difference < 0) AS n_a_only,
        count(*) FILTER (difference > 0) AS n_b_only,
        bool_and(of_a IN (0, 1) AND of_b IN (0, 1)) AS is_right_or_wrong,
        bool_and(of_a BETWEEN 0 AND 1 AND of_b BETWEEN 0 AND 1) AS is_share
    FROM paired
    GROUP BY key_a, key_b, benchmark, cluster
),

summed AS (
    SELECT
        key_a,
        key_b,
        benchmark,
        sum(m)::DOUBLE AS n,
        sum(n_units)::DOUBLE AS n_units,
        sum(of_a) / sum(m) AS mean_a,
        sum(of_b) / sum(m) AS mean_b,
        sum(total) AS total,
        sum(total) / sum(m) AS difference,
        sum(square) AS square,
        sum(total_total) AS total_total,
        sum(total_m) AS total_m,
        sum(m_m) AS m_m,
        sum(n_a_only)::BIGINT AS n_a_only,
        sum(n_b_only)::BIGINT AS n_b_only,
        bool_and(is_right_or_wrong) AS is_right_or_wrong,
        bool_and(is_share) AS is_share
    FROM units
    GROUP BY key_a, key_b, benchmark
),

chosen AS (
    SELECT
        *,
        CASE
            WHEN n_units < n THEN 'clustered_t'
            WHEN is_right_or_wrong THEN 'mcnemar'
            ELSE 't'
        END AS test,
        CASE
            WHEN n < 2 OR n_units < 2 THEN NULL
            WHEN n_units < n THEN 'clustered'
            WHEN is_right_or_wrong OR (is_share AND n_a_only + n_b_only < 20) THEN 'adjusted_wald'
            WHEN is_share AND square - n * difference * difference < 1e-9 THEN 'adjusted_wald'
            ELSE 't'
        END AS ci_method,
        -- of the plain mean, and by clusters
        CASE
            WHEN n < 2 OR n_units < 2 THEN NULL
            WHEN n_units < n
                THEN
                    sqrt(
                        n_units / (n_units - 1)
                        * greatest(0, total_total - 2 * difference * total_m + difference * difference * m_m)
                    ) / n
            ELSE sqrt(greatest(0, square - n * difference * difference) / (n - 1) / n)
        END AS plain_stderr,
        CASE WHEN n_units < n THEN n_units - 1 ELSE n - 1 END AS df
    FROM summed
),

-- of shares two questions, or two groups, are added that speak against each other. A group is as large as the questions
-- that one is worth: the design effect, to which one more counts that is alike throughout. See estimates.py
sized AS (
    SELECT
        *,
        CASE
            WHEN ci_method = 'adjusted_wald' THEN 1
            WHEN ci_method = 'clustered' AND is_share
                THEN
                    greatest(
                        1,
                        (
                            greatest(0, total_total - 2 * difference * total_m + difference * difference * m_m)
                            + (m_m / n) ** 2
                        ) / (greatest(0, square - n * difference * difference) + m_m / n)
                    )
            ELSE 0
        END AS added
    FROM chosen
),

centred AS (
    SELECT
        *,
        total / (n + 2 * added) AS centre
    FROM sized
),

measured AS (
    SELECT
        *,
        CASE
            WHEN added = 0 THEN plain_stderr
            WHEN ci_method = 'adjusted_wald' THEN sqrt(greatest(0, (square + 2) / (n + 2) - centre * centre) / (n + 2))
            ELSE
                sqrt(
                    (n_units + 2) / (n_units + 1)
                    * (
                        greatest(0, total_total - 2 * centre * total_m + centre * centre * m_m)
                        + 2 * added * added * (1 + centre * centre)
                    )
                ) / (n + 2 * added)
        END AS stderr,
        -- quantiles of Student's t from those of the normal distribution: Abramowitz & Stegun 26.7.5
        list_transform(
            [1.959963984540054e0, 1.6448536269514722e0],
            lambda z: CASE
                WHEN ci_method = 'adjusted_wald' THEN z
                WHEN df >= 3
                    THEN
                        z + (z ** 3 + z) / (4 * df)
                        + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * df ** 2)
                        + (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / (384 * df ** 3)
                        + (79 * z ** 9 + 776 * z ** 7 + 1482 * z ** 5 - 1920 * z ** 3 - 945 * z) / (92160 * df ** 4)
            END
        ) AS quantiles,
        CASE WHEN plain_stderr > 0 AND isfinite(plain_stderr) THEN abs(difference) / plain_stderr END AS t
    FROM centred
),

-- two-sided tails: the binomial one exactly, Student's as finite sums (26.7.3, 26.7.4) or, with many degrees, from the
-- normal distribution (26.7.8), whose error function is summed as a series of positive terms (7.1.6)
prepared AS (
    SELECT
        *,
        least(n_a_only, n_b_only) AS n_fewer,
        n_a_only + n_b_only AS n_differ,
        t / sqrt(df + t * t) AS sine,
        sqrt(df) / sqrt(df + t * t) AS cosine,
        t * (1 - 1 / (4 * df)) / sqrt(1 + t * t / (2 * df)) AS z
    FROM measured
),

tails AS (
    SELECT
        *,
        CASE
            WHEN n_differ = 0 THEN NULL
            WHEN test = 'mcnemar'
                THEN
                    least(1, 2 * list_sum(list_transform(
                        range(0, n_fewer + 1),
                        lambda i: exp(lgamma(n_differ + 1) - lgamma(i + 1) - lgamma(n_differ - i + 1) - n_differ * ln(2))
                    )))
            WHEN t IS NULL THEN NULL
            WHEN t = 0 THEN 1
            WHEN df >= 100 AND z > 8 THEN 1e-15
            WHEN df >= 100
                THEN
                    1 - z * sqrt(2 / pi()) * exp(-z * z / 2) * list_sum(list_transform(
                        range(0, 200),
                        lambda i: exp(i * ln(2 * z * z) + lgamma(i + 1) - lgamma(2 * i + 2))
                    ))
            WHEN df = 1 THEN 1 - 2 / pi() * asin(sine)
            WHEN df % 2 = 1
                THEN
                    1 - 2 / pi() * (asin(sine) + sine * list_sum(list_transform(
                        range(0, ((df - 1) / 2)::BIGINT),
                        lambda i: exp(2 * i * ln(2) + 2 * lgamma(i + 1) - lgamma(2 * i + 2)) * cosine ** (2 * i + 1)
                    )))
            ELSE
                1 - sine * list_sum(list_transform(
                    range(0, (df / 2)::BIGINT),
                    lambda i: exp(lgamma(2 * i + 1) - 2 * i * ln(2) - 2 * lgamma(i + 1)) * cosine ** (2 * i)
                ))
        END AS tail,
        n_differ / n AS discordance
    FROM prepared
),

bounded AS (
    -- of so few differences, whatever their sizes, no more can be said: each could have had the other sign
    SELECT
        *,
        CASE
            WHEN test = 'mcnemar' THEN tail
            -- no group tells them apart, or the error is beyond all numbers
            WHEN n_differ = 0 OR total_total = 0 OR NOT isfinite(plain_stderr) THEN NULL
            ELSE least(1, greatest(tail, 2.0 ** (1 - least(n_units, n_differ, 49))))
        END AS p_value
    FROM tails
),

rooted AS (
    -- null with three questions or fewer: the root of a negative number is an error in DuckDB 1
    SELECT
        *,
        CASE
            WHEN n > 1.959963984540054e0 ** 2 - 0.8416212335729143e0 ** 2
                THEN discordance * (n - (1.959963984540054e0 ** 2 - 0.8416212335729143e0 ** 2))
        END AS under_root
    FROM bounded
),

detectable AS (
    -- z of 0.975 and of 0.8; see power.py
    SELECT
        *,
        (1.959963984540054e0 + 0.8416212335729143e0) ** 2 / n AS least_found,
        (
            1.959963984540054e0 * sqrt(n * discordance)
            + 0.8416212335729143e0 * sqrt(under_root)
        ) / (n + 0.8416212335729143e0 ** 2) + 1 / n AS usually_found,
        -- Tango's score test of 0/1 verdicts, on the side that is nearer to the margin: the likeliest share of questions
        -- that only the model which is behind gets right, if it is behind by the margin. See score_test.py
        greatest(n_a_only, n_b_only) AS n_more,
        n_differ - 2 * n * margin + (n_more - n_fewer) * margin AS balance,
        (balance + sqrt(greatest(0, balance * balance + 8 * n * n_fewer * margin * (1 - margin)))) / (4 * n) AS likeliest
    FROM rooted
)

SELECT
    d.key_a AS model_a,
    d.key_b AS model_b,
    unnest(p.against) AS against,
    p.family,
    p.step,
    d.benchmark,
    p.metric,
    p.filter,
    p.higher_is_better,
    d.n::BIGINT AS n,
    CASE WHEN d.n_units < d.n THEN d.n_units::BIGINT END AS n_clusters,
    p.n_of_a - d.n::BIGINT AS n_only_in_a,
    p.n_of_b - d.n::BIGINT AS n_only_in_b,
    d.mean_a,
    d.mean_b,
    p.value_a,
    p.value_b,
    -- 1e-9: sums of floats
    abs(a.mean - p.value_a) <= 1e-9 * greatest(1, abs(p.value_a))
    AND abs(b.mean - p.value_b) <= 1e-9 * greatest(1, abs(p.value_b)) AS is_mean,
    d.difference,
    -- cut at what the difference of two shares can be
    CASE
        WHEN d.is_share AND d.centre - d.quantiles[1] * d.stderr < -1 THEN -1
        ELSE d.centre - d.quantiles[1] * d.stderr
    END AS ci_low,
    CASE
        WHEN d.is_share AND d.centre + d.quantiles[1] * d.stderr > 1 THEN 1
        ELSE d.centre + d.quantiles[1] * d.stderr
    END AS ci_high,
    d.ci_method,
    d.n_a_only,
    d.n_b_only,
    d.p_value,
    d.test,
    CASE
        WHEN d.ci_method IS NULL THEN NULL
        WHEN d.test <> 'mcnemar' THEN (1.959963984540054e0 + 0.8416212335729143e0) * d.stderr
        WHEN d.n_differ = 0 OR d.usually_found IS NULL THEN least(1, d.least_found)
        ELSE least(1, greatest(d.usually_found, d.least_found))
    END AS min_detectable,
    CASE
        WHEN d.ci_method IS NULL THEN 'inconclusive'
        WHEN
            abs(d.centre) + d.quantiles[2] * d.stderr < margin
            AND (
                d.test <> 'mcnemar'
                -- a quarter of a question: the correction
                OR d.n * margin - (d.n_more - d.n_fewer) - 0.25
                > d.quantiles[2] * sqrt(greatest(0, d.n * (2 * d.likeliest + margin * (1 - margin))))
            )
            THEN 'equivalent'
        WHEN d.p_value IS NULL OR d.p_value >= 0.05 THEN 'inconclusive'
        WHEN (d.difference > 0) = p.higher_is_better THEN 'better'
        ELSE 'worse'
    END AS verdict,
    p.ask_version,
    p.score_version
FROM detectable AS d
INNER JOIN pairs AS p USING (key_a, key_b, benchmark)
INNER JOIN own AS a ON d.key_a = a.model_key AND d.benchmark = a.benchmark
INNER JOIN own AS b ON d.key_b = b.model_key AND d.benchmark = b.benchmark
ORDER BY p.family, p.step, d.key_b, d.benchmark, against
