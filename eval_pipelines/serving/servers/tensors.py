"""From Triton's tensors to questions, and from answers to tensors. Needs pytriton and numpy."""

import itertools
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
from pytriton.model_config import Tensor  # type: ignore[import-not-found]

from eval_pipelines.serving.servers.questions import Answer, Engine, Question, question, say


def inputs() -> list[Any]:
    """What a request holds; see pytriton_server.py."""
    return [
        Tensor(name="text_input", dtype=np.bytes_, shape=(1,)),
        Tensor(name="apply_chat_template", dtype=np.bool_, shape=(1,), optional=True),
        Tensor(name="continuation", dtype=np.bytes_, shape=(1,), optional=True),
        Tensor(name="sampling_parameters", dtype=np.bytes_, shape=(1,), optional=True),
    ]


def outputs() -> list[Any]:
    """What a reply may hold; only those that mean something are in it."""
    return [
        *(Tensor(name=name, dtype=np.bytes_, shape=(1,)) for name in ("text_output", "finish_reason", "error")),
        *(Tensor(name=name, dtype=np.int32, shape=(1,)) for name in ("num_input_tokens", "num_output_tokens")),
        Tensor(name="log_likelihood", dtype=np.float64, shape=(1,)),
        Tensor(name="is_greedy", dtype=np.bool_, shape=(1,)),
    ]


def infer(engine: Engine, requests: list[Any]) -> list[dict[str, Any]]:
    """Answer the requests of one batch. Never raises: Triton's reply to that shows the traceback, paths and all."""
    asked = [_question(request) for request in requests]
    told = _answers(engine, [one for one in asked if isinstance(one, Question)])
    return [_tensors(one if isinstance(one, Answer) else next(told)) for one in asked]


def _question(request: Any) -> Question | Answer:
    told = {name: request[name] for name in request if request[name].size}
    if any(tensor.size != 1 for tensor in told.values()) or "text_input" not in told:
        return Answer(error="each tensor must hold one element, and text_input must be there")
    try:
        return question(
            _text(told["text_input"]),
            is_chat=bool(told["apply_chat_template"].item()) if "apply_chat_template" in told else False,
            continuation=_text(told["continuation"]) if "continuation" in told else None,
            parameters=_text(told["sampling_parameters"]) if "sampling_parameters" in told else "",
        )
    except ValueError as error:
        return Answer(error=str(error))


def _text(tensor: Any) -> str:
    value = tensor.item()
    return value.decode() if isinstance(value, bytes) else str(value)


def _answers(engine: Engine, questions: list[Question]) -> Iterator[Answer]:
    try:
        return iter(engine.answer(questions) if questions else [])
    except Exception as error:  # noqa: BLE001 - whatever it is, one reply per request is due
        say(traceback.format_exc())
        return itertools.repeat(Answer(error=f"internal error: {type(error).__name__}; the server's log has more"))


def _tensors(answer: Answer) -> dict[str, Any]:
    if answer.error is not None:
        return {"error": _bytes(answer.error)}
    found = {
        "text_output": None if answer.text is None else _bytes(answer.text),
        "finish_reason": None if answer.finish_reason is None else _bytes(answer.finish_reason),
        "num_input_tokens": None if answer.n_input is None else np.array([[answer.n_input]], dtype=np.int32),
        "num_output_tokens": None if answer.n_output is None else np.array([[answer.n_output]], dtype=np.int32),
        "log_likelihood": None if answer.log_likelihood is None else np.array([[answer.log_likelihood]]),
        "is_greedy": None if answer.is_greedy is None else np.array([[answer.is_greedy]]),
    }
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _bytes(text: str) -> Any:
    # object, not bytes: numpy cuts zero bytes off the end of its own bytes
    return np.array([[text.encode("utf-8", "replace")]], dtype=object)
