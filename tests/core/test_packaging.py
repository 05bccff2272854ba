"""What is shipped: the five packages and their SQL, locked requirements, no trace of the machine it was made on."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.core.test_layers import imports, sources

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("eval_pipelines", "resources", "assets", "sensors", "dbt_like_sql")
LOCKS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("requirements*.lock", "tests/serving/*/requirements*.txt")
    for path in ROOT.glob(pattern)
    # its CPU build of torch comes from another place on every machine
    if path.parent.name != "vllm_cpu"
)
# split, so that this file does not find itself
TRACES = ("python" + "hosted", "pypi" + ".org", "/wo" + "rk/", "/ro" + "ot/", "--index" + "-url")


def import_beside(folder: Path, *, first: bool) -> "subprocess.CompletedProcess[str]":
    """Import the project in a fresh interpreter with another folder before or after it on the path."""
    path = [str(folder), str(ROOT)] if first else [str(ROOT), str(folder)]
    script = f"import sys; sys.path[:0] = {path!r}; import eval_pipelines"
    return subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder with a top-level package `resources` of somebody else's."""
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "__init__.py").write_text("raise SystemExit('the stranger was run')\n")
    return tmp_path


def test_a_strangers_resources_package_is_refused_by_name(stranger: Path) -> None:
    done = import_beside(stranger, first=True)
    assert f"the package 'resources' comes from {stranger / 'resources'}, not from {ROOT}" in done.stderr


def test_a_stranger_that_does_not_win_is_no_hindrance(stranger: Path) -> None:
    assert import_beside(stranger, first=False).returncode == 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the wheel that the project builds without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_source_file_of_the_five_packages(wheel: set[str]) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".sql", ".yaml", ".jsonl")
    }
    assert wanted - wheel == set()
    assert {Path(name).suffix for name in wanted} >= {".py", ".sql"}


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def traces(path: Path) -> list[str]:
    """Registry hosts and machine paths that a file names."""
    text = path.read_text(errors="replace")
    return [
        f"{path.name}: {trace}"
        for trace in TRACES
        if re.search(rf"(?<![\w.~-]){re.escape(trace)}|\.{re.escape(trace)}", text)
    ]


def test_no_tracked_file_names_a_registry_or_this_machine() -> None:
    assert [found for path in tracked_files() for found in traces(path)] == []


@pytest.mark.parametrize("trace", TRACES)
def test_a_planted_trace_is_found(tmp_path: Path, trace: str) -> None:
    (tmp_path / "x.txt").write_text(f"see https://files.{trace}x {trace}y\n")
    assert traces(tmp_path / "x.txt") == [f"x.txt: {trace}"]


def requirements_without_hash(text: str) -> list[str]:
    """Requirements of a compiled file that are not pinned, or carry no hash."""
    lines = text.replace("\\\n", " ").splitlines()
    return [
        line.split()[0]
        for line in lines
        if line.strip() and not line.lstrip().startswith("#")
        if "==" not in line.split("--hash")[0] or not re.search(r"--hash=sha256:[0-9a-f]{64}\b", line)
    ]


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_requirement_is_pinned_with_a_hash(name: str) -> None:
    assert requirements_without_hash((ROOT / name).read_text()) == []


def test_a_requirement_without_a_hash_is_found() -> None:
    text = "a==1 \\\n    --hash=sha256:" + "0" * 64 + "\n    # via b\nb==2\n-e .\nc>=3 --hash=sha256:" + "0" * 64 + "\n"
    assert requirements_without_hash(text) == ["b==2", "-e", "c>=3"]


def declared() -> set[str]:
    """The packages that the project says it needs, the optional ones too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    return {re.match(r"[A-Za-z0-9._-]+", one)[0].lower() for one in wanted}  # type: ignore[index]


def test_whatever_the_project_imports_it_declares() -> None:
    # modules that come with a package, which pins them or is built on them
    comes_with = {"pydantic_core": "pydantic", "openvino": "openvino-genai", "sqlalchemy": "dagster"}
    packages = packages_distributions()
    # programs that run where somebody else's packages are
    trees = [(name, tree) for name, tree in sources(ROOT) if not name.startswith("eval_pipelines/serving/servers/")]
    imported = {target.split(".")[0] for name, tree in trees for _, target in imports(name, tree)}
    imported -= {*PACKAGES, *sys.stdlib_module_names}
    needed = {comes_with.get(one, packages.get(one, [one])[0]).lower().replace("_", "-") for one in imported}
    assert needed - declared() == set()


def test_everything_the_project_needs_is_locked() -> None:
    # what only the demo, DuckLake or a tracker needs has a lock of its own
    locks = [*ROOT.glob("requirements*.lock"), ROOT / "tests" / "exporters" / "requirements-wandb.txt"]
    pinned = (re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==", path.read_text(), re.MULTILINE) for path in locks)
    locked = {name for names_ in pinned for name in names_}
    assert declared() - locked == set()
