"""One new file each: backends, launchers, dialects and benchmarks are found by the name of their file.

Names are listed without importing; a module is imported when it is asked for.
"""

import importlib
from pathlib import Path
from types import ModuleType

from eval_pipelines.errors import UnknownNameError

_ROOT = Path(__file__).parent


def names(package: str) -> list[str]:
    """File names in a plug-in folder, such as `serving.backends`, sorted, without importing any."""
    folder = _ROOT.joinpath(*package.split("."))
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def load(package: str, name: str, *, kind: str) -> ModuleType:
    """Import `eval_pipelines.<package>.<name>`. Raises UnknownNameError with the near miss and the known names."""
    known = names(package)
    if name not in known:
        folder = f"eval_pipelines/{package.replace('.', '/')}"
        raise UnknownNameError(kind, name, known=known, add=f"create {folder}/{name}.py")
    return importlib.import_module(f"eval_pipelines.{package}.{name}")
