-- sample_flips: the questions that a checkpoint answers otherwise than its predecessor, with both answers.
--
-- materialized: view
-- Grain    one row per (model_key, benchmark, sample_id, metric, filter)
-- Rule     the predecessor is that of checkpoint_progress; a question counts if both were graded on it and the values
--          differ. By headline metrics only; the macro compare takes any two models
-- Columns  model_key, previous_model_key: the two checkpoints · step, previous_step: of training · benchmark, sample_id,
--          subtask, metric, filter: which verdict · value, previous_value: in the metric's unit · change: value - previous_value ·
--          is_gain: the newer one is better · question, target, choices: of the sample · answer, previous_answer: the texts, where the
--          sample is one request · extracted, previous_extracted: what was graded · ask_version, score_version: of the benchmark
-- Reader   "what did it unlearn"; a view over the segments: name a model_key and a benchmark
SELECT
    pair.model_key,
    pair.previous_model_key,
    pair.step,
    pair.previous_step,
    pair.benchmark,
    newer.sample_id,
    newer.subtask,
    newer.metric,
    newer.filter,
    newer.value,
    older.value AS previous_value,
    newer.value - older.value AS change,
    (newer.value > older.value) = pair.higher_is_better AS is_gain,
    newer.question,
    newer.target,
    newer.choices,
    newer.answer,
    older.answer AS previous_answer,
    newer.extracted,
    older.extracted AS previous_extracted,
    pair.ask_version,
    pair.score_version
FROM checkpoint_progress AS pair
INNER JOIN sample_scores AS newer USING (model_key, benchmark, metric, filter)
INNER JOIN sample_scores AS older
    ON
        pair.previous_model_key = older.model_key
        AND pair.benchmark = older.benchmark
        AND newer.sample_id = older.sample_id
        AND newer.subtask = older.subtask
        AND newer.metric = older.metric
        AND newer.filter = older.filter
WHERE pair.is_headline AND newer.value <> older.value
