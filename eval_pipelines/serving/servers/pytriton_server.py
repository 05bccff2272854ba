"""One model behind a real Triton Inference Server, by PyTriton: `PYTHON -I pytriton_server.py --weights … --port …`.

Runs in an environment that has nvidia-pytriton 0.7 and is not ours (numpy < 2). Our own code is found by the place of
this file, never through PYTHONPATH: that would put all packages of our environment before those of the server's.

Tensors in    text_input (prompt, context, or a JSON list of messages with apply_chat_template), continuation (asks for
              its log-likelihood), sampling_parameters (JSON, OpenAI's names)
Tensors out   text_output, finish_reason, num_input_tokens, num_output_tokens, log_likelihood, is_greedy, or error
              alone: one request that cannot be answered must not fail the others of its batch
Listens on    port (HTTP), port + 1 (gRPC), port + 2 (metrics)
Source        PyTriton 0.7 documentation, "Binding Models", "Decorators"; Triton's "generate" extension
"""

import argparse
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
import types
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval_pipelines.serving.servers.questions import Engine

_PACKAGE = Path(__file__).resolve().parents[2]
_SOCKET_PATH_BYTES = 107  # longest address of a Unix socket
_SOCKET_NAME_BYTES = 24  # what PyTriton adds to the model's name
_WORKSPACE = "pt-"
_EXIT_TIMEOUT_S = 3
_STOP_TIMEOUT_S = 10
_ORPHANS_TIMEOUT_S = 3
_PR_SET_PDEATHSIG = 1
_TICK_S = 0.5


def main() -> int:
    """Serve until told to stop. Returns the exit status: 0 told to, 1 ended by itself, 2 could not start."""
    _find_our_code()
    from eval_pipelines.serving.servers.preflight import require_libpython, require_packages, require_ports
    from eval_pipelines.serving.servers.questions import StartError, say

    if sys.argv[1:2] == ["--engine-worker"]:
        from eval_pipelines.embedded import worker

        del sys.argv[1]
        worker.main()
        return 0
    options = _options()
    if not options.is_inner:
        return _launch()
    try:
        require_libpython()
        require_packages()
        require_ports(options.host, options.port)
        return _serve(options)
    except StartError as error:
        say(f"error: {error}")
        return 2


def _launch() -> int:
    """Run the server in a session of its own, with the library of this Python where Triton finds it.

    Who stops us signals our whole group. Of Triton's processes the wrong one would die first, and every request in
    flight would be answered by a traceback: so they are not in our group, and end when they are told or when we are
    gone.
    """
    path = [str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    server = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:], "--is-inner"],
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, path))},
        start_new_session=True,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.send_signal(signal.SIGTERM))
    returncode = server.wait()
    _clean_up_after(server.pid)
    return returncode if returncode >= 0 else 128 - returncode


def _clean_up_after(group: int) -> None:
    """Let what the server started end by itself; kill what does not, such as Triton's backend without a Triton."""
    deadline = time.monotonic() + _ORPHANS_TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
    _sweep()


def _find_our_code() -> None:
    package = types.ModuleType("eval_pipelines")
    package.__path__ = [str(_PACKAGE)]
    sys.modules["eval_pipelines"] = package


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve one model by PyTriton.")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model-name", required=True, help="letters, digits, '.', '_' and '-' only")
    parser.add_argument("--engine", choices=["gguf", "torch"], required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="HTTP; the next two are taken too")
    parser.add_argument("--max-batch-size", type=int, default=16)
    parser.add_argument("--queue-delay-us", type=int, default=5000)
    parser.add_argument("--max-context", type=int)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--kv-cache-gb", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--triton-config", type=json.loads, default={}, help="JSON: further fields of TritonConfig")
    parser.add_argument("--is-inner", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _serve(options: argparse.Namespace) -> int:
    from eval_pipelines.serving.servers.questions import StartError, say

    stopping: list[int] = []

    def stop(number: int, _frame: object) -> None:
        if not stopping:  # a second signal must not break the clean-up
            stopping.append(number)
            signal.alarm(_STOP_TIMEOUT_S)  # whoever hangs then dies of it, and Triton with its parent
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    _sweep()
    workspace = _workspace(options.model_name)
    engine: Engine | None = None
    try:
        engine = _engine(options)
        return _run(options, engine, workspace)
    except KeyboardInterrupt:
        return 0
    except StartError:
        raise
    except Exception:  # noqa: BLE001 - the log must say it before the process ends
        say(traceback.format_exc())
        return 1
    finally:
        if engine is not None:
            engine.stop()
        shutil.rmtree(workspace, ignore_errors=True)


def _workspace(model_name: str) -> Path:
    """A folder for Triton's files. It is locked as long as this process lives, so that others may sweep it after."""
    from eval_pipelines.serving.servers.questions import StartError

    folder = Path(tempfile.mkdtemp(prefix=_WORKSPACE))
    if len(bytes(folder / "w")) + len(model_name) + _SOCKET_NAME_BYTES > _SOCKET_PATH_BYTES:
        folder.rmdir()
        raise StartError(
            f"{folder.parent} and the model's name ({len(model_name)} letters) are too long together for the address "
            f"of a socket: set TMPDIR to a shorter folder in `env`, or shorten the model key"
        )
    fcntl.flock(os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600), fcntl.LOCK_EX)
    return folder


def _sweep() -> None:
    """Remove what servers left that were killed: nobody holds the lock of their folder."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_WORKSPACE}*/lock"):
        try:
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        shutil.rmtree(lock.parent, ignore_errors=True)


def _engine(options: argparse.Namespace) -> "Engine":
    from eval_pipelines.serving.servers.questions import StartError

    try:
        if options.engine == "gguf":
            from eval_pipelines.serving.servers.gguf_engine import GgufEngine

            return GgufEngine(
                options.weights, options.model_name, max_context=options.max_context, threads=options.threads,
                kv_cache_gb=options.kv_cache_gb,
            )  # fmt: skip
        from eval_pipelines.serving.servers.torch_engine import TorchEngine
    except ModuleNotFoundError as error:
        needs = "openvino-genai, gguf and pydantic" if options.engine == "gguf" else "torch and transformers"
        raise StartError(f"{error}: this model's engine needs {needs} beside nvidia-pytriton") from error
    return TorchEngine(
        options.weights, max_context=options.max_context, threads=options.threads, device=options.device,
        dtype=options.dtype, trust_remote_code=options.trust_remote_code,
    )  # fmt: skip


def _run(options: argparse.Namespace, engine: "Engine", workspace: Path) -> int:
    """Bind the engine, wait, stop. Returns 1 if Triton or the engine ended by itself."""
    from pytriton.model_config import DynamicBatcher, ModelConfig  # type: ignore[import-not-found]
    from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found]

    from eval_pipelines.serving.servers.questions import say
    from eval_pipelines.serving.servers.tensors import infer, inputs, outputs

    config = TritonConfig(
        http_address=options.host, http_port=options.port, grpc_address=options.host, grpc_port=options.port + 1,
        metrics_address=options.host, metrics_port=options.port + 2, allow_gpu_metrics=False,
        exit_timeout_secs=_EXIT_TIMEOUT_S, **options.triton_config,
    )  # fmt: skip
    triton = Triton(config=config, workspace=workspace / "w")
    batcher = DynamicBatcher(max_queue_delay_microseconds=options.queue_delay_us)
    try:
        triton.bind(
            model_name=options.model_name,
            # one instance: of several, one may ask for another's socket before anybody listens, and loading fails
            infer_func=partial(infer, engine),
            inputs=inputs(),
            outputs=outputs(),
            config=ModelConfig(max_batch_size=options.max_batch_size, batcher=batcher),
        )
        triton.run()
        say(f"ready: http://{options.host}:{options.port} {options.model_name} ({engine.name})")
        while _listens(options.host, options.port) and engine.trouble() is None:
            time.sleep(_TICK_S)
    except KeyboardInterrupt:
        engine.stop()  # first: Triton waits for the requests that the engine still has
        triton.stop()
        raise
    say(f"error: {engine.trouble() or 'Triton ended by itself'}")
    return 1


def _listens(host: str, port: int) -> bool:
    # PyTriton's own is_alive() says yes for minutes after Triton was killed
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        pass
    return True


if __name__ == "__main__":
    status = main()
    if status == 1:
        os._exit(1)  # PyTriton's threads would wait for minutes for a Triton that is gone
    sys.exit(status)
