"""An author's Python file as a module, with those that stand beside it.

None of them stays among the loaded ones: their functions travel to grading processes as they are, an edited file is
read anew, and two folders may each have one of the same name.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from eval_pipelines.errors import ConfigError


def load_module(path: Path) -> ModuleType:
    """Run a file. Raises ConfigError."""
    name = f"eval_pipelines_own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    others = {one: sys.modules.pop(one) for one in _of_other_folders(path.parent)}
    before = {*sys.modules}
    sys.modules[name] = module
    # what stands beside it is looked for last: a benchmark may be called as a library is
    sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    # a file that is edited twice in a second would be taken for the one that was compiled first
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.dont_write_bytecode = writes_none
        sys.path.remove(str(path.parent))
        for one in [name, *_from_beside(path.parent, {*sys.modules} - before - {name})]:
            del sys.modules[one]
        sys.modules.update(others)
    return module


def _from_beside(folder: Path, names: set[str]) -> list[str]:
    """Those of the loaded modules that are files or packages of a folder, and what is in such a package."""
    beside = _beside(folder)
    found = [one for one in names if one.partition(".")[0] in beside]
    return [one for one in found if _file(one).is_relative_to(folder)]


def _of_other_folders(folder: Path) -> list[str]:
    """The loaded modules that are called as one beside, and that nobody finds by name: a task left them there."""
    found = []
    for one in _beside(folder) & {*sys.modules}:
        file = _file(one)
        root = file.parent.parent if file.name == "__init__.py" else file.parent
        if file.name and str(root) not in sys.path:
            found.append(one)
    return found


def _beside(folder: Path) -> set[str]:
    return {one.stem for one in folder.glob("*.py")} | {one.parent.name for one in folder.glob("*/__init__.py")}


def _file(module: str) -> Path:
    return Path(getattr(sys.modules[module], "__file__", None) or "")
