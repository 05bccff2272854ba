-- stg_evaluations: every try at an evaluation, once, as of any moment.
--
-- macro: stg_evaluations(as_of := NULL)
-- Takes    as_of: a moment, as a timestamp, a date or text; UTC unless it names an offset. What was recorded after it is
--          not there. Null: now
-- Grain    one row per (evaluation_id, run_id)
-- Rule     a try that was landed twice (its step was retried within one run) keeps its newest record
-- Columns  those of the landed evaluations
-- Reader   the table of the same name, and latest_metrics
SELECT *
FROM evaluations
WHERE
    as_of IS NULL
    -- a moment with an offset says so as text; only then does the session's own time zone play no part in the cast
    OR recorded_at <= CASE
        WHEN regexp_matches(as_of::VARCHAR, ':.*[-+a-zA-Z]') THEN timezone('UTC', as_of::TIMESTAMPTZ)
        ELSE as_of::TIMESTAMP
    END
QUALIFY row_number() OVER (PARTITION BY evaluation_id, run_id ORDER BY recorded_at DESC, n_failed) = 1
