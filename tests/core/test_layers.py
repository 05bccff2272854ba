"""Who may import whom, who may read the environment, how long files may grow, and what a plug-in offers."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel, ConfigDict, Field

from eval_pipelines import plugins
from eval_pipelines.config.deployments import DeploymentFields
from eval_pipelines.layouts import LAYOUTS

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("eval_pipelines", "resources", "assets", "sensors", "dbt_like_sql")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60

# files of the core's folder that bind it to Dagster or to a terminal
SWITCHBOARD = {"definitions", "cli", "cells", "demo", "home"}
# programs that run in environments of their own: their own environment variables, and no room but the embedded one
OWN_PROCESS = ("eval_pipelines/embedded/", "eval_pipelines/serving/servers/")
READS_ENVIRONMENT = {"eval_pipelines/serving/guard.py"}
SHARED = {
    "records",
    "judgements",
    "keys",
    "errors",
    "plugins",
    "endpoint",
    "config",
    "models",
    "layouts",
    "container_spec",
}
ARROWS: dict[str, set[str]] = {
    "config": {"scoring"},
    "analysis": {"formats", "scoring", "warehouse"},
    "benchmarks": {"scoring"},
    "evaluate": {"benchmarks", "client", "evaluation_record", "scoring", "stopping"},
    "evaluation_record": {"benchmarks", "client"},
    "stopping": {"evaluation_record", "scoring"},
    "serving": {"checkpoint_files", "client"},
    "exporters": {"analysis", "warehouse"},
    "reports": {"analysis", "formats", "warehouse"},
    "container_spec": {"serving"},
    "models": {"checkpoints", "checkpoint_files"},
    "configured": {"checkpoints"},
    "checkpoints": {"checkpoint_files", "fingerprints"},
}


def sources(root: Path) -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text(), str(path))


def imports(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, wherever in the file it stands."""
    package = name.removesuffix(".py").removesuffix("/__init__").split("/")
    folder = package if name.endswith("__init__.py") else package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def room_of(dotted: str) -> str:
    """`eval_pipelines.client.fanout.ask` → `client`; the package itself is room ``."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "eval_pipelines" else ""


def layer_breaches(root: Path) -> list[str]:
    """Imports from the core into Dagster or its adapters."""
    return [
        f"{name}:{line} imports {target}"
        for name, tree in sources(root)
        if is_core(name)
        for line, target in imports(name, tree)
        if target.split(".")[0].startswith("dagster") or target.split(".")[0] in ("resources", "assets", "sensors")
    ]


def arrow_breaches(root: Path) -> list[str]:
    """Imports between rooms of the core that no arrow allows."""
    found = []
    for name, tree in sources(root):
        if not is_core(name):
            continue
        room = room_of(name.removesuffix(".py").replace("/", "."))
        allowed = {room, "embedded"} if name.startswith(OWN_PROCESS) else {room, "", *SHARED, *ARROWS.get(room, set())}
        for line, target in imports(name, tree):
            package = target.split(".")[0]
            if package == "eval_pipelines" and room_of(target) not in allowed:
                found.append(f"{name}:{line} imports {target}")
            if package == "dbt_like_sql" and room != "warehouse":
                found.append(f"{name}:{line} imports {target}")
    return found


def table_breaches(root: Path) -> list[str]:
    """Imports of the SQL models' own code beyond errors and keys."""
    return [
        f"{name}:{line} imports {target}"
        for name, tree in sources(root)
        if name.startswith("dbt_like_sql/")
        for line, target in imports(name, tree)
        if target.split(".")[0] in {*PACKAGES, "dagster"} - {"dbt_like_sql"}
        and room_of(target) not in ("errors", "keys")
    ]


def environment_breaches(root: Path) -> list[str]:
    """Core files that read the environment, other than those that may."""
    found = []
    for name, tree in sources(root):
        in_own_process = name.startswith(OWN_PROCESS)
        if not is_core(name) or in_own_process or name in READS_ENVIRONMENT:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "expandvars"):
                found.append(f"{name}:{node.lineno} uses {node.attr}")
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                found += [f"{name}:{node.lineno} uses {a.name}" for a in node.names if a.name in ("environ", "getenv")]
    return found


def too_long(root: Path) -> list[str]:
    """Files and functions over their budget."""
    found = []
    for name, tree in sources(root):
        n_lines = len((root / name).read_text().splitlines())
        if n_lines > MAX_FILE_LINES:
            found.append(f"{name}: {n_lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if n_lines > MAX_FUNCTION_LINES:
                    found.append(f"{name}:{node.lineno} {node.name}: {n_lines} lines")
    return found


def postponed_annotations(root: Path) -> list[str]:
    """Adapters whose annotations are text: Dagster inspects the real classes."""
    return [
        name
        for name, tree in sources(root)
        if name.split("/")[0] in ("resources", "assets", "sensors")
        and any(target == "__future__.annotations" for _, target in imports(name, tree))
    ]


def is_core(name: str) -> bool:
    return name.startswith("eval_pipelines/") and name.removesuffix(".py").split("/")[1] not in SWITCHBOARD


# the project itself


def test_the_core_has_never_heard_of_dagster_or_its_adapters() -> None:
    assert layer_breaches(ROOT) == []


def test_rooms_of_the_core_import_each_other_only_along_the_arrows() -> None:
    assert arrow_breaches(ROOT) == []


def test_the_tables_know_errors_and_keys_only() -> None:
    assert table_breaches(ROOT) == []


def test_the_core_does_not_read_the_environment() -> None:
    assert environment_breaches(ROOT) == []


def test_files_and_functions_stay_within_their_budgets() -> None:
    assert too_long(ROOT) == []


def test_adapters_do_not_postpone_their_annotations() -> None:
    assert postponed_annotations(ROOT) == []


def test_every_room_in_the_arrows_exists() -> None:
    rooms = {path.stem for path in (ROOT / "eval_pipelines").iterdir() if not path.name.startswith("_")}
    named = SWITCHBOARD | SHARED | set(ARROWS) | {room for rooms_ in ARROWS.values() for room in rooms_}
    assert named - rooms == set()


# the checkers, on planted breaches

PLANTED: list[tuple[Callable[[Path], list[str]], str, str]] = [
    (layer_breaches, "eval_pipelines/scoring/x.py", "def f():\n    import dagster as dg\n"),
    (layer_breaches, "eval_pipelines/scoring/x.py", "import dagster_shared\n"),
    (layer_breaches, "eval_pipelines/client/x.py", "from assets.partitions import models\n"),
    (layer_breaches, "eval_pipelines/client/x.py", "from sensors import models\n"),
    (arrow_breaches, "eval_pipelines/scoring/x.py", "from eval_pipelines.client.fanout import ask\n"),
    (arrow_breaches, "eval_pipelines/scoring/x.py", "from eval_pipelines import client\n"),
    (arrow_breaches, "eval_pipelines/scoring/x.py", "from ..client import fanout\n"),
    (arrow_breaches, "eval_pipelines/scoring/x.py", "from .. import client\n"),
    (arrow_breaches, "eval_pipelines/client/x.py", "from eval_pipelines.cells import evaluate_cells\n"),
    (arrow_breaches, "eval_pipelines/client/x.py", "from dbt_like_sql import load\n"),
    (arrow_breaches, "eval_pipelines/embedded/x.py", "from eval_pipelines.errors import ConfigError\n"),
    (arrow_breaches, "eval_pipelines/serving/x.py", "import eval_pipelines.embedded.app\n"),
    (arrow_breaches, "eval_pipelines/serving/servers/x.py", "from eval_pipelines.errors import ConfigError\n"),
    (table_breaches, "dbt_like_sql/x.py", "from eval_pipelines.warehouse.tables import run\n"),
    (table_breaches, "dbt_like_sql/x.py", "import dagster\n"),
    (environment_breaches, "eval_pipelines/serving/x.py", "import os\nkey = os.environ['KEY']\n"),
    (environment_breaches, "eval_pipelines/config.py", "import os\nkey = os.getenv('KEY')\n"),
    (environment_breaches, "eval_pipelines/config.py", "from os import environ as e\n"),
    (too_long, "assets/x.py", "x = 1\n" * 301),
    (too_long, "sensors/x.py", "async def f():\n" + "    x = 1\n" * 60),
    (postponed_annotations, "resources/x.py", "from __future__ import annotations\n"),
]


@pytest.mark.parametrize(("check", "name", "text"), PLANTED, ids=[f"{c.__name__}-{t[:40]!r}" for c, _, t in PLANTED])
def test_a_planted_breach_is_found(tmp_path: Path, check: Callable[[Path], list[str]], name: str, text: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    assert [found.split(":")[0] for found in check(tmp_path)] == [name]


ALLOWED: list[tuple[Callable[[Path], list[str]], str, str]] = [
    (layer_breaches, "eval_pipelines/definitions.py", "import dagster as dg\nfrom assets.marts import marts_assets\n"),
    (
        arrow_breaches,
        "eval_pipelines/scoring/x.py",
        "from eval_pipelines import plugins\nimport eval_pipelines.records\n",
    ),
    (arrow_breaches, "eval_pipelines/serving/backends/x.py", "from . import Model\nfrom ...client import probe\n"),
    (arrow_breaches, "eval_pipelines/embedded/x.py", "from eval_pipelines.embedded.errors import BadRequest\n"),
    (arrow_breaches, "eval_pipelines/serving/servers/x.py", "from eval_pipelines.embedded.engine import Engine\n"),
    (arrow_breaches, "eval_pipelines/warehouse/x.py", "from dbt_like_sql import load\n"),
    (environment_breaches, "eval_pipelines/serving/guard.py", "import os\nhere = dict(os.environ)\n"),
    (environment_breaches, "eval_pipelines/embedded/cli.py", "import os\nkey = os.environ.get('KEY')\n"),
    (too_long, "assets/x.py", "x = 1\n" * 300),
    (too_long, "assets/x.py", "def f():\n" + "    x = 1\n" * 59),
]


@pytest.mark.parametrize(("check", "name", "text"), ALLOWED, ids=[f"{c.__name__}-{t[:40]!r}" for c, _, t in ALLOWED])
def test_what_the_design_allows_is_no_breach(
    tmp_path: Path, check: Callable[[Path], list[str]], name: str, text: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    assert check(tmp_path) == []


# plug-ins


def backend_problems(module: ModuleType) -> list[str]:
    """What a backend lacks of its contract."""
    spec = getattr(module, "Spec", None)
    found = [] if (module.__doc__ or "").strip() else ["no docstring"]
    if not (isinstance(spec, type) and issubclass(spec, BaseModel)):
        found.append("no Spec")
    else:
        found += [] if spec.model_config.get("frozen") else ["Spec is not frozen"]
        found += [] if spec.model_config.get("extra") == "forbid" else ["Spec takes unknown keys"]
        found += [
            f"{name} hides an option of every deployment"
            for name in spec.model_fields
            if name in DeploymentFields.model_fields
        ]
        found += [f"{name} has no description" for name, field in spec.model_fields.items() if not field.description]
    layouts = getattr(module, "READS", None)
    if not isinstance(layouts, frozenset) or layouts - LAYOUTS:
        found.append("READS is no frozenset of layouts")
    elif hasattr(module, "bind") and layouts:
        found.append("READS files, though someone else serves it")
    for name in ("reads", "needs_weights"):
        if not callable(getattr(module, name, len)):
            found.append(f"{name} is no function")
    offers = [name for name in ("command", "bind") if callable(getattr(module, name, None))]
    return found if len(offers) == 1 else [*found, f"offers {offers}, not one of command and bind"]


def dialect_problems(module: ModuleType) -> list[str]:
    """What a dialect lacks of its contract."""
    found = [] if (module.__doc__ or "").strip() else ["no docstring"]
    missing = [name for name in ("path", "body", "read") if not callable(getattr(module, name, None))]
    if "path" not in missing and not module.path("model").startswith("/"):
        found.append("path() does not start with /")
    return found + [f"no {name}()" for name in missing]


@pytest.mark.parametrize("name", plugins.names("serving.backends"))
def test_every_backend_keeps_the_contract(name: str) -> None:
    assert backend_problems(plugins.load("serving.backends", name, kind="backend")) == []


@pytest.mark.parametrize("name", plugins.names("client.dialects"))
def test_every_dialect_keeps_the_contract(name: str) -> None:
    assert dialect_problems(plugins.load("client.dialects", name, kind="dialect")) == []


class _Sloppy(BaseModel):
    model_config = ConfigDict(extra="ignore")
    url: str
    port: int = Field(default=1, description="A port.")


def test_a_sloppy_backend_is_found_out() -> None:
    module = ModuleType("sloppy")
    module.Spec = _Sloppy  # type: ignore[attr-defined]
    assert backend_problems(module) == [
        "no docstring",
        "Spec is not frozen",
        "Spec takes unknown keys",
        "url has no description",
        "READS is no frozenset of layouts",
        "offers [], not one of command and bind",
    ]


def test_a_sloppy_dialect_is_found_out() -> None:
    module = ModuleType("sloppy", "A docstring.")
    module.path = lambda served_name: "completions"  # type: ignore[attr-defined]
    module.body = dict  # type: ignore[attr-defined]
    assert dialect_problems(module) == ["path() does not start with /", "no read()"]
