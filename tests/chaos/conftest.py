"""One chaotic server for a whole file, and the calm run that others are compared with."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.asking import Chaos, Told, endpoint, told_of

SERVER = Path(__file__).parent / "server.py"
N_FACES = 3


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A certificate that nobody trusts, and its key; nothing where it cannot be made."""
    folder = tmp_path_factory.mktemp("certificate")
    files = [str(folder / "certificate.pem"), str(folder / "key.pem")]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    if not shutil.which("openssl"):
        return []
    done = subprocess.run([*make, "-out", files[0], "-keyout", files[1]], capture_output=True, check=False)
    return files if done.returncode == 0 else []


@pytest.fixture(scope="session")
def chaos(certificate: list[str]) -> Iterator[Chaos]:
    command = [sys.executable, str(SERVER), str(N_FACES), *certificate]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = Chaos(*json.loads(process.stdout.readline()))
        yield server
        server.close()
        process.kill()


@pytest.fixture(scope="session")
def calm(chaos: Chaos, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Forty questions, all answered at once."""
    chaos.set()
    told = told_of(chaos, tmp_path_factory.mktemp("calm"), endpoint(chaos.faces[0]))
    assert told.report.n_answered == told.report.n_requests
    return told
