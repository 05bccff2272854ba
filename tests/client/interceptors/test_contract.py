"""Every interceptor in the folder keeps the contract, is light, is documented, and changes no request's identity."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from eval_pipelines import plugins
from eval_pipelines.client.chain import Chain
from eval_pipelines.config.interceptors import FOLDER, STAGES
from eval_pipelines.records import Request

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
NAMES = plugins.names(FOLDER)
ARGUMENTS = {
    "request": 2,
    "headers": 3,
    "response": 3,
    "remark": 3,
    "reuses": 4,
    "attempt": 2,
    "undoes": 3,
}  # fmt: skip
# options with which each has something to do
AT_WORK: dict[str, Any] = {
    "system_message": {"text": "Be brief.", "completions": "prepend"},
    "drop_params": {"params": ["seed"]},
    "modify_tools": {"strip_properties": ["city"]},
    "payload": {"params_to_add": {"top_k": 1}},
    "thinking": {"speaks": "vllm", "budget_tokens": 64, "completions": "leave"},
    "turn_limit": {"max_turns": 1, "remind_every": 1},
    "progress_webhook": {"url": "http://127.0.0.1:9/hook"},
}


def problems(module: ModuleType) -> list[str]:
    """What an interceptor lacks of its contract."""
    name, spec = module.__name__.rpartition(".")[2], getattr(module, "Spec", None)
    found = [] if (module.__doc__ or "").startswith(f"{name}: ") else [f"its docstring does not start with `{name}: `"]
    found += [] if "\nStage   " in (module.__doc__ or "") else ["its docstring tells no Stage"]
    if not (isinstance(spec, type) and issubclass(spec, BaseModel)):
        return [*found, "no Spec"]
    found += [] if spec.model_config.get("frozen") else ["Spec is not frozen"]
    found += [] if spec.model_config.get("extra") == "forbid" else ["Spec takes unknown keys"]
    found += [f"{one} has no description" for one, field in spec.model_fields.items() if not field.description]
    offered = [stage for stage in STAGES if hasattr(module, stage)]
    found += [] if offered else ["offers no stage"]
    for stage in [*offered, "undoes"]:
        function = getattr(module, stage, None)
        if function and len(inspect.signature(function).parameters) != ARGUMENTS[stage]:
            found.append(f"{stage} takes other arguments")
    if "response" in offered and not isinstance(getattr(module, "VERSION", None), int):
        found.append("changes answers, and has no VERSION")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_interceptor_keeps_the_contract(name: str) -> None:
    assert problems(plugins.load(FOLDER, name, kind="interceptor")) == []


def test_a_sloppy_interceptor_is_found_out() -> None:
    class Sloppy(BaseModel):
        model_config = ConfigDict(extra="ignore")
        text: str

    module = ModuleType("sloppy", "Does things.")
    module.Spec = Sloppy  # type: ignore[attr-defined]
    module.response = lambda spec, response: response  # type: ignore[attr-defined]
    assert problems(module) == [
        "its docstring does not start with `sloppy: `",
        "its docstring tells no Stage",
        "Spec is not frozen",
        "Spec takes unknown keys",
        "text has no description",
        "response takes other arguments",
        "changes answers, and has no VERSION",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_an_interceptor_changes_what_is_asked_and_never_which_question_it_is(name: str, listed: Any) -> None:
    seen = Chain(listed({name: AT_WORK.get(name, {})}))
    for fields in (
        {"operation": "chat", "messages": ({"role": "user", "content": "?"},)},
        {"operation": "completion", "prompt": "?"},
        {"operation": "loglikelihood", "prompt": "?", "continuation": " 4"},
    ):
        before = Request(sample_id="s/1", subtask="s", part=2, repeat=3, params={"seed": 1}, **fields)
        after = seen.request(before)
        kept = {"sample_id", "subtask", "part", "repeat", "operation", "continuation"}
        assert after.model_dump(include=kept) == before.model_dump(include=kept)
        assert seen.request(before).digest == after.digest


def test_importing_all_interceptors_is_cheap() -> None:
    code = (
        "import sys; from eval_pipelines import plugins\n"
        f"[plugins.load('{FOLDER}', name, kind='interceptor') for name in plugins.names('{FOLDER}')]\n"
        "sys.exit(str({'httpx', 'asyncio', 'pandas', 'pyarrow', 'duckdb', 'lm_eval', 'dagster'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() in ("set()", "{'asyncio'}")


def test_the_table_of_the_documentation_is_the_folder() -> None:
    text = (ROOT / "docs" / "asking.md").read_text().split("\n| name | stage |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| (.*?) \|", text, re.MULTILINE)
    told = {name: (stages.split(", "), {*re.findall(r"`(\w+)`", options)}) for name, stages, options in rows}
    real = {}
    for name in NAMES:
        module = plugins.load(FOLDER, name, kind="interceptor")
        real[name] = ([stage for stage in STAGES if hasattr(module, stage)], {*module.Spec.model_fields})
    assert told == real
