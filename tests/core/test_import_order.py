"""Whatever is imported first can be imported: no module waits for one that waits for it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# each module as the first of the project: third-party packages stay loaded, ours are forgotten in between
IMPORT_EACH = """
import importlib, sys
wrong = []
for name in sys.argv[1:]:
    for known in [one for one in sys.modules if one.split(".")[0] in ("eval_pipelines", "dbt_like_sql")]:
        del sys.modules[known]
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("eval_pipelines", "dbt_like_sql"):
            wrong.append(f"{name}: {error}")
    except ImportError as error:
        wrong.append(f"{name}: {error}")
print(*wrong, sep="\\n", end="")
"""


@pytest.mark.slow
def test_every_module_can_be_the_first_that_is_imported() -> None:
    paths = sorted((ROOT / "eval_pipelines").rglob("*.py"))
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths]
    # programs of other environments; `__main__` runs
    own = [name.removesuffix(".__init__") for name in names if ".servers." not in name and "__main__" not in name]
    own = [
        name for name in own if ".in_sandbox" not in name and not name.endswith(("grading_process", "embedded.worker"))
    ]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, *own], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
