"""`generation` is checked by name and type, and kept as it is written."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.config.schema import config_schema
from eval_pipelines.keys import digest

pytestmark = pytest.mark.unit


def spec(generation: Any, **fields: Any) -> BenchmarkSpec:
    written = json.dumps({"task": "mine", "generation": generation, **fields})
    return BenchmarkSpec.model_validate_json(written, strict=True)


@pytest.mark.parametrize(
    "generation",
    [
        {"temperature": 1, "top_p": 0.5, "top_k": -1, "seed": 7},
        {"max_tokens": 512, "stop": "Q:"},
        {"stop": ["Q:", "\n"], "logit_bias": {"50256": -100}},
        {"stop": None, "seed": None},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
    ids=str,
)
def test_what_is_right_stays_as_it_is_written_and_so_does_its_version(generation: dict[str, Any]) -> None:
    found = spec(generation)
    assert json.dumps(found.generation) == json.dumps(generation)
    assert found.code_version == digest({"generation": generation, "task": "mine"}, n_bytes=6)


@pytest.mark.parametrize(
    ("generation", "place", "told"),
    [
        ({"temprature": 0.7}, (), "`temprature` is no known parameter. Did you mean 'temperature'?"),
        ({"mirostat": 2}, (), "goes by `interceptors: [{payload: {params_to_add: {mirostat: …}}}]`"),
        ({"max_gen_toks": 5}, (), "`max_gen_toks` is no parameter here: write `max_tokens`"),
        ({"until": ["x"]}, (), "write `stop`"),
        ({"do_sample": True}, (), "a `temperature` above 0 samples"),
        ({"n": 5}, (), "write `repeats`"),
        ({"temperature": "hot"}, ("temperature",), "valid number"),
        ({"temperature": -1}, ("temperature",), "greater than or equal to 0"),
        ({"max_tokens": 1.5}, ("max_tokens",), "valid integer"),
        ({"max_tokens": 0}, ("max_tokens",), "greater than or equal to 1"),
        ({"stop": 5}, ("stop",), "must be text, or a list of texts"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(generation: dict[str, Any], place: tuple[str, ...], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(generation)
    [error] = caught.value.errors()
    assert error["loc"] == ("generation", *place)
    assert told in error["msg"]


def test_more_stops_than_a_chat_takes_are_refused_and_not_dropped() -> None:
    with pytest.raises(ValidationError, match=r"`generation\.stop` has 5 texts, and chat endpoints take 4"):
        spec({"stop": list("abcde")}, protocol="chat")
    assert spec({"stop": list("abcde")}).generation["stop"] == list("abcde")


def test_editors_know_its_names() -> None:
    schema = config_schema()
    entry = schema["properties"]["benchmarks"]["additionalProperties"]["properties"]["generation"]
    parameters = schema["$defs"][entry["$ref"].rpartition("/")[2]]
    assert parameters["additionalProperties"] is False
    assert {"temperature", "max_tokens", "stop"} <= {*parameters["properties"]}
