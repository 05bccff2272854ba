"""What tests share: a faulty server, a project in a temporary folder, the small model, real data."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import settings

# the same examples each time: a failure that comes and goes is nobody's
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


class FaultyServer:
    """Drives tests/faulty_server.py."""

    def __init__(self, url: str) -> None:
        self.root, self.url = url, f"{url}/v1"

    def set(self, **settings: Any) -> None:
        """Start anew with these settings."""
        httpx.post(f"{self.root}/config", json=settings).raise_for_status()

    def change(self, **settings: Any) -> None:
        """Change settings, keep what was counted."""
        httpx.post(f"{self.root}/patch", json=settings).raise_for_status()

    def stats(self) -> dict[str, int]:
        """What it saw since `set`."""
        return httpx.get(f"{self.root}/stats").json()

    def seen(self) -> list[dict[str, Any]]:
        """Bodies and headers of what it was asked, if it `records`; no canaries."""
        told: list[dict[str, Any]] = httpx.get(f"{self.root}/seen").json()
        return [one for one in told if (one["body"].get("messages") or [{}])[-1].get("content") != "Hi"]

    def hooked(self) -> list[dict[str, Any]]:
        """What /hook was told."""
        told: list[dict[str, Any]] = httpx.get(f"{self.root}/hook").json()
        return told


@pytest.fixture(scope="session")
def _faulty_process() -> Iterator[str]:
    command = [sys.executable, str(ROOT / "tests" / "faulty_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.fixture
def faulty(_faulty_process: str) -> FaultyServer:
    server = FaultyServer(_faulty_process)
    server.set()
    return server


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The real small model as a GGUF file."""
    path = Path(os.environ.get("EVAL_PIPELINES_MODEL", ROOT / ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    if not path.is_file():
        pytest.skip(f"the small model is not at {path}: `make bootstrap` fetches it")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real benchmark data that lies beside the checkout, not in it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real benchmark data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root of a small published record: tests/published_record.py. Read it only."""
    from tests.published_record import publish_record

    root = tmp_path_factory.mktemp("record") / "data"
    assert publish_record(root).failing == ()
    return root


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write an evals.yaml into the test's folder."""

    def write(text: str) -> Path:
        path = tmp_path / "evals.yaml"
        path.write_text(text)
        return path

    return write
