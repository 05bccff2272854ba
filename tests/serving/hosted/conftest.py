"""The stand-in for providers, as a fixture."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .borrowing import StandIn


@pytest.fixture(scope="session")
def _stand_in_process() -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).parent / "stand_in_providers.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.fixture
def stand_in(_stand_in_process: str) -> StandIn:
    server = StandIn(_stand_in_process)
    server.set()
    return server
