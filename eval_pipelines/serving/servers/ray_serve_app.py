"""One application on Ray Serve, in the foreground: `PYTHON ray_serve_app.py --app MODULE:NAME --host HOST --port PORT`.

Starts a Ray of its own on loopback, or joins a cluster that runs no Serve yet (`--address`). Two processes: the driver
leads a session that holds all of Ray, and a supervisor, which is what the caller sees, ends that session. However
either of them ends, by TERM, kill -9 or by itself, no process of Ray is left.

Needs   a Python with ray[serve]; ray[llm] for ray.serve.llm
Source  Ray 2.60 documentation, "Serve: Deploy", "Serve LLM", "Token authentication"
"""

import argparse
import importlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

_GRACE_S = 8.0
_TICK_S = 0.1
_LOOK_S = 5.0


def main() -> None:
    """Fork: the child drives Ray, the parent sees to its end."""
    asked = _arguments()
    # short: Ray puts sockets below it, whose paths may have 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    parent = os.getpid()
    driver = os.fork()
    if driver == 0:
        os.setsid()
        status = 1
        try:
            status = _drive(asked, folder, parent)
        except BaseException:  # noqa: BLE001 - the supervisor reads the status, the operator the log
            traceback.print_exc()
        if os.getppid() != parent:
            _clean(os.getpid(), folder)
        os._exit(status)
    sys.exit(_supervise(driver, folder))


def _supervise(driver: int, folder: Path) -> int:
    """Wait for the driver, passing TERM on to it alone; then end what is left of its session."""
    told_at: list[float] = []

    def stop(*_: Any) -> None:
        told_at.append(time.monotonic())
        _kill(driver, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    status = None
    while status is None and not (told_at and time.monotonic() - told_at[0] > _GRACE_S):
        pid, code = os.waitpid(driver, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if pid else None
        time.sleep(_TICK_S)
    _clean(driver, folder)
    if status is None:
        os.waitpid(driver, 0)
    if told_at:
        return 0
    # a driver that ends by itself has failed, whatever it says
    return 128 - status if status is not None and status < 0 else status or 1


def _clean(leader: int, folder: Path) -> None:
    """Kill every process of a session but this one, until none is left; then remove Ray's files."""
    deadline = time.monotonic() + _GRACE_S
    while (members := _session(leader)) and time.monotonic() < deadline:
        for pid in members:
            _kill(pid, signal.SIGKILL)
        time.sleep(_TICK_S)
    shutil.rmtree(folder, ignore_errors=True)


def _session(leader: int) -> list[int]:
    """Its processes that run, but for this one. Ray's workers lead process groups of their own."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # after the name, which may hold anything: state, parent, group, session
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state not in "ZX" and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _drive(asked: argparse.Namespace, folder: Path, parent: int) -> int:
    """Run the application until told to stop. Returns the exit status."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent, folder), daemon=True).start()
    is_ours = False
    try:
        _set_environment(asked)
        app = _imported(asked)
        _start_ray(asked, folder)
        signal.signal(signal.SIGTERM, stop)  # Ray has put a handler of its own in its place, which prints a stack
        from ray import serve

        if serve.status().proxies:
            sys.exit(f"error: Serve already runs on {asked.address}: stop it, or deploy there and bind it as `hosted`")
        is_ours = True
        where = "EveryNode" if asked.address else "HeadOnly"
        serve.start(proxy_location=where, http_options={"host": asked.host, "port": asked.port})
        try:
            serve.run(_application(app, asked), name=asked.name, route_prefix=asked.route_prefix)
        except RuntimeError as error:
            deployments = serve.status().applications[asked.name].deployments
            _say("\n".join([f"error: {error}", *(one.message for one in deployments.values())]))
            return 1
        _say(f"ready: {asked.app} on Ray")
        while (status := serve.status().applications[asked.name].status) != "DEPLOY_FAILED":
            time.sleep(_LOOK_S)
        _say(f"error: the application is {status}")
        return 1
    except SystemExit as ended:
        if isinstance(ended.code, str):
            _say(ended.code)
        return 0 if ended.code in (0, None) else 1
    finally:
        _shut_down(has_serve=is_ours)


def _set_environment(asked: argparse.Namespace) -> None:
    """What Ray reads when it is imported, and passes on to its workers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if asked.app_dir:
        sys.path.insert(0, asked.app_dir)
    if not asked.address:
        # Ray's ports are open to the network: only who has this token may run code there
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        if asked.app_dir:
            os.environ["PYTHONPATH"] = asked.app_dir


def _start_ray(asked: argparse.Namespace, folder: Path) -> None:
    import ray

    if asked.address:
        host, _, port = asked.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:  # Ray itself would try for minutes
            sys.exit(f"error: no Ray answers at {asked.address}: {error}")
        ray.init(
            address=asked.address,
            runtime_env={"env_vars": {"PYTHONPATH": asked.app_dir}} if asked.app_dir else None,
        )
        return
    ray.init(
        num_cpus=asked.num_cpus, object_store_memory=asked.object_store_memory_bytes, _temp_dir=str(folder),
        include_dashboard=asked.dashboard_port is not None, dashboard_host="127.0.0.1",
        dashboard_port=asked.dashboard_port,
    )  # fmt: skip


def _imported(asked: argparse.Namespace) -> Any:
    """What the import path names."""
    from ray import serve

    module, _, name = asked.app.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    options = json.loads(asked.options)
    if options and not isinstance(found, serve.Deployment):
        sys.exit(f"error: {asked.app} is no deployment: only one can be given {', '.join(options)}")
    return found


def _application(found: Any, asked: argparse.Namespace) -> Any:
    """An application: as it is, from a deployment, or from a function that builds one; these get the arguments."""
    from ray import serve

    if isinstance(found, serve.Application):
        return found
    told = json.loads(asked.args)
    return found.options(**json.loads(asked.options)).bind(told) if isinstance(found, serve.Deployment) else found(told)


def _shut_down(*, has_serve: bool) -> None:
    """Stop the Serve that was started here, and Ray; what hangs is left to the end of the session."""
    if "ray" not in sys.modules:
        return
    import ray
    from ray import serve

    try:
        if has_serve:
            serve.shutdown()
        ray.shutdown()
    except Exception:  # noqa: BLE001 - the processes end with the session anyway
        traceback.print_exc()


def _follow(parent: int, folder: Path) -> None:
    """End the session when the supervisor has died."""
    while os.getppid() == parent:
        time.sleep(_TICK_S)
    _kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S / 2)
    _clean(os.getpid(), folder)
    _kill(os.getpid(), signal.SIGKILL)


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--app", required=True, help="MODULE:NAME of a deployment, an application, or a function that builds one")
    add("--args", default="{}", help="JSON object that the deployment or the function gets")
    add("--options", default="{}", help="JSON object of Deployment.options()")
    add("--app-dir", help="folder that holds the module")
    add("--name", default="default", help="the application's name on the cluster")
    add("--route-prefix", default="/")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--address", help="a running cluster; default: a Ray of its own")
    add("--num-cpus", type=int, help="CPUs of its own Ray; default: all")
    add("--object-store-memory-bytes", type=int, help="shared memory of its own Ray")
    add("--dashboard-port", type=int, help="of its own Ray, on loopback; default: no dashboard")
    return parser.parse_args()


if __name__ == "__main__":
    sys.path.pop(0)  # no name beside this file may hide another's
    main()
