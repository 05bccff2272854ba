-- sample_flips: the questions that a model answers otherwise than another, or than its predecessor, with both answers.
--
-- macro: sample_flips(model, of_benchmark, against := NULL)
-- Takes    model: family@revision · of_benchmark: its name · against: the other model; null: the checkpoint before it, as
--          checkpoint_progress has it
-- Grain    one row per (sample_id, subtask, metric, filter)
-- Rule     a question counts if both were graded on it and the values differ, by the metrics of their latest numbers; null as
--          `against` for a model without a predecessor: no rows. As in compare, none either where other judges graded, nor,
--          within a family, where answers were read through other interceptors: why_not_comparable tells
-- Columns  sample_id, subtask, metric, filter: which verdict · previous_value, value: of the other, of the model · change: value -
--          previous_value · question, target, choices: of the sample · previous_answer, answer: the texts, where the sample is
--          one request · previous_extracted, extracted: what was graded
-- Reader   "what did it unlearn"
SELECT
    newer.sample_id,
    newer.subtask,
    newer.metric,
    newer.filter,
    older.value AS previous_value,
    newer.value,
    newer.value - older.value AS change,
    newer.question,
    newer.target,
    newer.choices,
    older.answer AS previous_answer,
    newer.answer,
    older.extracted AS previous_extracted,
    newer.extracted
FROM answers(model, of_benchmark) AS newer
INNER JOIN
    answers(
        coalesce(
            against,
            (
                SELECT any_value(p.previous_model_key)
                FROM checkpoint_progress AS p
                WHERE p.model_key = model AND p.benchmark = of_benchmark AND p.is_headline
            )
        ),
        of_benchmark
    ) AS older USING (sample_id, subtask, metric, filter)
WHERE
    newer.value <> older.value
    AND newer.judged_by IS NOT DISTINCT FROM older.judged_by
    -- what stands around a model's requests belongs to its family; the predecessor is of the same one
    AND (
        newer.graded_as IS NOT DISTINCT FROM older.graded_as
        OR split_part(against, '@', 1) <> split_part(model, '@', 1)
    )
ORDER BY newer.sample_id, newer.metric, newer.filter
