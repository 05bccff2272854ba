"""An OpenAI-compatible server for one causal model of Hugging Face, on a CPU or on GPUs.

    PYTHON transformers_server.py --model FOLDER --served-model-name NAME --host HOST --port PORT

Needs   a Python with torch, transformers (4.56 or newer), fastapi, uvicorn; accelerate for several GPUs
Offers  chat, completions, log-likelihood by echo with the best tokens at each position; no streaming
Key     TRANSFORMERS_API_KEY
"""

import argparse
import os
import signal
import socket
import sys
import threading
import time
import traceback
import types
from pathlib import Path

if __name__ == "__main__":
    # run as a script by another environment: its siblings become a package, and no name beside it hides another's
    sys.path.pop(0)
    sys.modules["servers"] = types.ModuleType("servers")
    sys.modules["servers"].__path__ = [str(Path(__file__).parent)]
    __package__ = "servers"

import torch
import uvicorn

from ._transformers_engine import Engine
from ._transformers_model import CausalModel, LoadError, Rows, Settings
from ._transformers_routes import Service

_GRACE_S = 2


class _Server(uvicorn.Server):
    """Ends the rows that are computed as soon as it is told to stop, so that their senders hang up."""

    engine: Engine[Rows]

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        self.engine.close()
        super().handle_exit(sig, frame)


def main() -> None:
    """Load, then answer until told to stop."""
    asked = _arguments()
    listener = _listener(asked.host, asked.port)  # before the model is loaded: a port that is taken is told at once
    if asked.threads:
        torch.set_num_threads(asked.threads)
    template = Path(asked.chat_template).read_text() if asked.chat_template else None
    try:
        model = CausalModel(
            Settings(
                folder=asked.model, device=asked.device, gpus=asked.pipeline_parallel_size, dtype=asked.dtype,
                max_batch_tokens=asked.max_batch_tokens, max_model_len=asked.max_model_len,
                attn_implementation=asked.attn_implementation, trust_remote_code=asked.trust_remote_code,
                chat_template=template,
            )
        )  # fmt: skip
    except LoadError as error:
        sys.exit(f"error: {error}")
    engine = Engine(
        model,
        max_batch_size=asked.max_batch_size,
        max_batch_tokens=asked.max_batch_tokens,
        max_waiting=asked.max_waiting,
    )
    service = Service(
        model, engine, name=asked.served_model_name, key=os.environ.get("TRANSFORMERS_API_KEY"),
        max_waiting=asked.max_waiting,
    )  # fmt: skip
    threading.Thread(target=_compute, args=(engine,), daemon=True).start()
    # uvicorn raises the signal that ended it once more; and no thread in the middle of a computation may hold us up
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    config = uvicorn.Config(
        service.app(), lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S
    )
    server = _Server(config)
    server.engine = engine
    sys.stdout.write(f"ready: {model.name}\n")
    sys.stdout.flush()
    server.run(sockets=[listener])
    os._exit(0)


def _compute(engine: Engine[Rows]) -> None:
    """The engine's thread: the process ends with it."""
    try:
        engine.run()
    except BaseException:  # noqa: BLE001 - whatever it is, nothing can be answered any more
        traceback.print_exc()
        os._exit(1)
    if engine.trouble:
        time.sleep(1)  # those who wait are told
        os._exit(1)


def _listener(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        sys.exit(f"error: {host}:{port}: {error}")
    return listener


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, help="folder in Hugging Face's layout")
    add("--served-model-name", required=True, help="the one name it answers to")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--device", choices=("cpu", "cuda"), default="cuda")
    add("--pipeline-parallel-size", type=int, default=1, help="GPUs that hold successive layers")
    add("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto")
    add("--max-batch-size", type=int, default=16, help="sequences computed at once")
    add("--max-batch-tokens", type=int, default=4096, help="prompt tokens, padding included, computed at once")
    add("--max-model-len", type=int, help="prompt plus answer in tokens; default: the model's")
    add("--max-waiting", type=int, default=1024, help="sequences that may wait; more are refused with 503")
    add("--attn-implementation", help="eager, sdpa, flash_attention_2 ...; default: the model's")
    add("--trust-remote-code", action="store_true", help="run the code that lies beside the weights")
    add("--chat-template", help="file in place of the model's own")
    add("--threads", type=int, help="CPU threads; default: torch's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
