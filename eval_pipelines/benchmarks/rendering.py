"""What lm-eval renders, as our requests, samples and versions."""

import inspect
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from eval_pipelines.benchmarks.code_filters import runs_code
from eval_pipelines.benchmarks.own_code import code_of
from eval_pipelines.benchmarks.own_file import GOLD
from eval_pipelines.benchmarks.repeats import n_repeats, takes_several
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.config.generation import MAX_STOPS_OF_CHAT
from eval_pipelines.errors import DataError
from eval_pipelines.keys import digest
from eval_pipelines.records import Request
from eval_pipelines.scoring.sandbox import judging_version

# the defaults of lm-eval's API models: the same answers need the same parameters
_MAX_TOKENS = 256
_SEED = 1234
# raised when this project itself makes other numbers of the same verdicts
_GRADING = 2
_ONLY_SCORING = ("metric_list", "filter_list", "process_results")
_NOT_ASKED = (*_ONLY_SCORING, "metadata", "custom_dataset", "dataset_path", "dataset_kwargs", "tag", "task_alias")


def to_requests(instance: Any, sample_id: str, subtask: str, spec: BenchmarkSpec) -> list[Request]:
    """The requests of one lm-eval instance: one per repeat."""
    if instance.request_type == "loglikelihood_rolling":
        fields = _rolling(instance, sample_id)
    elif instance.request_type == "loglikelihood":
        fields = _loglikelihood(instance)
    else:
        fields = _generation(instance, spec)
    return [
        Request(sample_id=sample_id, subtask=subtask, part=instance.idx, repeat=repeat, **_seeded(fields, repeat))
        for repeat in range(n_repeats(spec, instance.repeats))
    ]


def _seeded(fields: dict[str, Any], repeat: int) -> dict[str, Any]:
    """With a seed of its own for each repeat: with one seed for all, a server repeats itself.

    Seeds of successive repeats follow each other: some servers draw several answers to one request in that very way.
    """
    seed = fields["params"].get("seed")
    return {**fields, "params": {**fields["params"], "seed": seed + repeat}} if isinstance(seed, int) else fields


def _rolling(instance: Any, sample_id: str) -> dict[str, Any]:
    (document,) = instance.args
    if not document:
        raise DataError(f"{sample_id}: an empty text has no log-likelihood. Take its row out of the data.")
    return {"operation": "loglikelihood_rolling", "continuation": document, "params": {"seed": _SEED}}


def _loglikelihood(instance: Any) -> dict[str, Any]:
    context, continuation = instance.args[:2]
    # spaces at the boundary belong to the continuation, as in lm-eval's `_encode_pair`
    stripped = context.rstrip()
    return {
        "operation": "loglikelihood",
        "prompt": stripped,
        "continuation": context[len(stripped) :] + continuation,
        "params": {"seed": _SEED},
    }


def _generation(instance: Any, spec: BenchmarkSpec) -> dict[str, Any]:
    context, kwargs = instance.args[0], {**instance.args[1]}
    kwargs.pop("do_sample", None)
    until = kwargs.pop("until", None) or []
    params: dict[str, Any] = {
        "max_tokens": kwargs.pop("max_gen_toks", _MAX_TOKENS),
        "temperature": kwargs.pop("temperature", 0),
        "stop": [until] if isinstance(until, str) else list(until),
        "seed": _SEED,
        **kwargs,
        **spec.generation,
    }
    if spec.protocol == "chat":
        if isinstance(params["stop"], list):  # as lm-eval cuts those of its tasks
            params["stop"] = params["stop"][:MAX_STOPS_OF_CHAT]
        return {"operation": "chat", "messages": tuple(json.loads(context)), "params": params}
    return {"operation": "completion", "prompt": context, "params": params}


def question_of(task: Any, doc: Any) -> str:
    """The prompt without few-shot examples, as text."""
    text = task.doc_to_text(doc)
    if isinstance(text, int):
        return " / ".join(str(choice) for choice in task.doc_to_choice(doc))
    return str(text)


def target_of(task: Any, doc: Any) -> str:
    """The gold answer as the scorer sees it."""
    target = task.doc_to_target(doc)
    if isinstance(target, int) and task.config.doc_to_choice:
        choices = task.doc_to_choice(doc)
        return str(choices[target]) if 0 <= target < len(choices) else str(target)
    return json.dumps(target, ensure_ascii=False) if isinstance(target, list) else str(target)


def ask_version(spec: BenchmarkSpec, tasks: Sequence[Any]) -> str:
    """Author's version and a hash of everything that decides what is asked; independent of `limit`.

    And of the number of repeats, where a sample's score is their mean: one answer and five estimate the same. Where the
    task makes one verdict of all, their number decides what is measured.
    """
    parts: list[Any] = []
    own_repeats: list[int] = []
    for task in tasks:
        config = {
            name: value for name, value in task.config.to_dict(keep_callable=False).items() if name not in _NOT_ASKED
        }
        fewshot = list(task.fewshot_docs() or []) if task.config.num_fewshot else []
        code = code_of([_asking(task)])
        parts.append([config, _digest_of_rows(task.eval_docs), _digest_of_rows(fewshot), *([code] if code else [])])
        if spec.repeats not in (None, task.config.repeats or 1) and takes_several(task):
            own_repeats = [n_repeats(spec, None)]
    changes = [entry.in_words for entry in spec.interceptors if entry.is_of(("request",))]
    drawn = {"seed": spec.fewshot_seed, "as_multiturn": spec.fewshot_as_multiturn}
    is_drawn_otherwise = drawn != {"seed": 1234, "as_multiturn": True} and any(one.config.num_fewshot for one in tasks)
    # it changes no question, but is landed with them
    clusters = [{"cluster": spec.cluster}] if spec.cluster else []
    only_if_any = [*own_repeats, *([changes] if changes else []), *([drawn] if is_drawn_otherwise else []), *clusters]
    asked = [parts, spec.protocol, spec.system_prompt, spec.generation, *only_if_any]
    return f"{spec.version}-{digest(_jsonable(asked), n_bytes=6)}"


def score_version(spec: BenchmarkSpec, tasks: Iterable[Any]) -> str:
    """Author's version and a hash of everything that decides how answers are graded."""
    parts = []
    for task in tasks:
        config = task.config.to_dict(keep_callable=False)
        code = code_of([_scoring(task)])
        judged = [judging_version()] if runs_code(task) else []
        parts.append(
            [task.VERSION, {name: config.get(name) for name in _ONLY_SCORING}, *([code] if code else []), *judged]
        )
    changes = [entry.in_words for entry in spec.interceptors if entry.is_of(("response", "remark"))]
    own = {"unparseable": spec.unparseable} if spec.unparseable else {}
    graded = [_GRADING, parts, version("lm-eval"), *([changes] if changes else []), *([own] if own else [])]
    return f"{spec.version}-{digest(_jsonable(graded), n_bytes=6)}"


def _asking(task: Any) -> list[Any]:
    """What decides what is asked and may be a function: templates, documents, few-shot examples."""
    return [value for name, value in vars(task.config).items() if name not in _NOT_ASKED]


def _scoring(task: Any) -> list[Any]:
    """What decides how answers are graded and may be a function; a class that is a task of its own, too."""
    return [type(task), *(getattr(task.config, name, None) for name in _ONLY_SCORING)]


def _digest_of_rows(rows: Iterable[Any]) -> str:
    # an answer that must score 1.0 is asked of nobody
    return digest([_jsonable({name: value for name, value in dict(row).items() if name != GOLD}) for row in rows])


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value, sort_keys=True, default=_as_text))


def _as_text(value: Any) -> str:
    """The same text in every process: a function by its source, since its repr holds an address."""
    if callable(value):
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            return str(getattr(value, "__qualname__", type(value).__qualname__))
    return str(value)
