"""The benchmarks people name most, each loaded from a row of the shape its data set has, asked and graded."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks.harness import load
from eval_pipelines.config import BenchmarkSpec

pytestmark = pytest.mark.slow

GPQA = {
    "Question": "Why?", "Correct Answer": "So", "Incorrect Answer 1": "a", "Incorrect Answer 2": "b",
    "Incorrect Answer 3": "c", "Subdomain": "x",
}  # fmt: skip
MMLU = {"question": "Why?", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "law"}
ROWS: dict[str, dict[str, Any]] = {
    "arc_challenge": {"question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
    "arc_easy": {"question": "Why?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
    "bbh_cot_fewshot_navigate": {"input": "Go. Back?", "target": "Yes"},
    "boolq": {"passage": "It is.", "question": "is it", "label": 1},
    "commonsense_qa": {
        "question": "Why?", "choices": {"text": list("vwxyz"), "label": list("ABCDE")}, "answerKey": "C",
    },
    "copa": {"premise": "It fell.", "question": "cause", "choice1": "a", "choice2": "b", "label": 1},
    "drop": {
        "passage": "Two and two.", "question": "How many?", "section_id": "s", "query_id": "q",
        "answer": {"number": "4", "date": {"day": "", "month": "", "year": ""}, "spans": [], "worker_id": "", "hit_id": ""},
        "validated_answers": {"number": [], "date": [], "spans": [], "worker_id": [], "hit_id": []},
    },
    "gpqa_diamond_cot_zeroshot": GPQA,
    "gpqa_diamond_generative_n_shot": GPQA,
    "gpqa_diamond_zeroshot": GPQA,
    "gsm8k": {"question": "1 + 1?", "answer": "2\n#### 2"},
    "gsm8k_cot": {"question": "1 + 1?", "answer": "2\n#### 2"},
    "hellaswag": {"ctx_a": "He", "ctx_b": "runs", "activity_label": "Run", "endings": ["a", "b", "c", "d"], "label": "1"},
    "lambada_openai": {"text": "He went to the shop"},
    "mgsm_direct_en": {"question": "1 + 1?", "answer": None, "answer_number": 2, "equation_solution": None},
    "mmlu_professional_law": MMLU,
    "mmlu_pro_law": {"question": "Why?", "options": list("abcdefghij"), "answer": "C", "category": "law", "cot_content": "A: So."},
    "nq_open": {"question": "who", "answer": ["me", "I"]},
    "openbookqa": {"question_stem": "Why", "choices": {"text": list("abcd"), "label": list("ABCD")}, "answerKey": "D"},
    "piqa": {"goal": "Do", "sol1": "a", "sol2": "b", "label": 1},
    "social_iqa": {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "c", "label": "2"},
    "squad_completion": {"title": "t", "context": "c", "question": "q", "text": "It is", "value": "so"},
    "swde": {"text": "the key is", "value": "x", "key": "k"},
    "triviaqa": {"question": "who", "answer": {"value": "me", "aliases": ["me", "I"]}},
    "truthfulqa_mc1": {"question": "Why?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]}},
    "truthfulqa_mc2": {
        "question": "Why?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]},
    },
    "winogrande": {"sentence": "It is _ then", "option1": "a", "option2": "b", "answer": "2"},
}  # fmt: skip
SPLITS = dict.fromkeys(("test", "validation", "train", "default", "dev"), "rows.jsonl")


@pytest.mark.parametrize("name", ROWS)
def test_it_is_loaded_and_graded(name, tmp_path: Path, index: Path, say) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[name]) + "\n" + json.dumps(ROWS[name]) + "\n")
    spec = BenchmarkSpec.model_validate(
        {"task": name, "num_fewshot": 0, "data": {"folder": tmp_path, "splits": SPLITS}}
    )
    benchmark = load(name, spec, limit=1, cache=index)
    requests = list(benchmark.requests())
    said = {r.digest: say(r, "x" if r.operation != "loglikelihood" else -1.0 - r.part) for r in requests}
    scores, metrics = benchmark.grade(said)
    assert requests
    assert all(score.value is not None or score.ungraded_reason is None for score in scores)
    assert {one.coverage for one in metrics} == {1.0}
