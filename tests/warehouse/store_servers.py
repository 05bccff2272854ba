"""A real S3 server and a real Postgres on loopback, each for the tests of one session."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
MOTO = ROOT / ".cache" / "s3" / "bin" / "moto_server"
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").exists() else []
_START_S = 30.0


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """The URL of an S3 server with an empty bucket `evals`."""
    if not MOTO.exists():
        pytest.skip("no local S3 server: `make s3` installs one")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        _wait(lambda: httpx.get(url, timeout=1).is_success, server)
        httpx.put(f"{url}/evals").raise_for_status()
        yield url
    finally:
        server.kill()
        server.wait()


@contextmanager
def postgres(database: str) -> Iterator[int]:
    """The port of a Postgres that holds `database`, for the user `evals` without a password."""
    if not POSTGRES:
        pytest.skip("no Postgres is installed here")
    # not below pytest's own folder, which it closes to everybody else: initdb refuses root
    with tempfile.TemporaryDirectory(prefix="evals-postgres-") as name:
        folder = Path(name)
        drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        if drop:
            shutil.chown(folder, "postgres", "postgres")
        port = _free_port()
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off "
            "-c synchronous_commit=off -c full_page_writes=off -c max_connections=60"
        )

        def run(program: str, *arguments: object) -> None:
            argv = [*drop, str(POSTGRES[-1] / program), *map(str, arguments)]
            # its own output is not ours to hold open: the server inherits it
            with (folder / f"{program}.log").open("wb") as log:
                subprocess.run(argv, cwd="/", check=True, stdout=log, stderr=log)

        run("initdb", "-D", folder / "db", "-U", "evals", "--auth=trust", "--no-sync", "--encoding=UTF8")
        run("pg_ctl", "-D", folder / "db", "-l", folder / "log", "-w", "-t", "30", "-o", options, "start")
        try:
            run("createdb", "-h", "127.0.0.1", "-p", port, "-U", "evals", database)
            yield port
        finally:
            run("pg_ctl", "-D", folder / "db", "-m", "immediate", "stop")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(is_up: Callable[[], bool], server: subprocess.Popen[bytes]) -> None:
    ends_at = time.monotonic() + _START_S
    while time.monotonic() < ends_at:
        assert server.poll() is None, "the server ended"
        try:
            if is_up():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise AssertionError("the server did not start in time")
