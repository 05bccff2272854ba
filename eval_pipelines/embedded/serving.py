"""From a weights file to a listening address, and back down."""

import asyncio
import contextlib
import hashlib
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import uvicorn

from eval_pipelines.embedded.app import create_app
from eval_pipelines.embedded.engine import Engine
from eval_pipelines.embedded.errors import StartError
from eval_pipelines.embedded.gguf_file import GgufHeader, read_header
from eval_pipelines.embedded.messages import EngineSettings
from eval_pipelines.embedded.pipeline import kv_bytes_per_token
from eval_pipelines.embedded.service import Service
from eval_pipelines.embedded.tokenizer import Tokenizer

GRACE_S = 10
_UNKNOWN_CONTEXT = 2048


@dataclass(frozen=True)
class Options:
    """The operator's choices. `port` 0 picks a free one; `threads` 0 leaves it to OpenVINO; memory in GiB."""

    weights: Path
    served_name: str
    host: str = "127.0.0.1"
    port: int = 0
    max_context: int | None = None
    threads: int = 0
    kv_cache_gb: int = 1
    api_key: str | None = field(default=None, repr=False)


def serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT; then refuse new requests and finish those in flight within GRACE_S.

    Raises StartError if the port is taken, the weights cannot be used, or the engine does not load.
    """
    header = read_header(options.weights)
    max_model_len = context_length(header, options)
    listener = bind(options.host, options.port)
    scratch = Path(tempfile.mkdtemp(prefix="eval-pipelines-embedded-"))
    engine = Engine(
        EngineSettings(
            weights=options.weights.resolve(),
            max_model_len=max_model_len,
            threads=options.threads,
            kv_cache_gb=options.kv_cache_gb,
            scratch=scratch,
        )
    )
    try:
        with _term_is_exit():
            # The tokenizer loads here while the engine process loads the model.
            engine.launch()
            service = _service(options, header, engine)
            engine.wait_until_ready()
        shutil.rmtree(scratch, ignore_errors=True)
        service.fingerprint = _fingerprint(options, engine.name)
        asyncio.run(_run(service, listener))
    finally:
        listener.close()
        # In this order: an engine that is still writing its copy would write it again.
        engine.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet, so that nobody connects before the model is there.

    Raises StartError if the address is taken or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol left out, asyncio would not set TCP_NODELAY: 40 ms more for every answer.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"cannot listen on host {host!r}: {error}. Give --host an address of this machine.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        advice = "Choose another --port, or 0 for a free one."
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}. {advice}") from error
    return listener


def context_length(header: GgufHeader, options: Options) -> int:
    """Tokens of prompt and answer together. Raises StartError if --max-context asks for more than there is."""
    of_model = int(header.setting("context_length") or _UNKNOWN_CONTEXT)
    settings = EngineSettings(header.path, of_model)
    of_memory = options.kv_cache_gb * 2**30 // kv_bytes_per_token(settings)
    wanted = options.max_context
    if wanted is None:
        return min(of_model, of_memory)
    if wanted > of_model:
        raise StartError(f"--max-context {wanted} is more than the model's own context of {of_model} tokens.")
    if wanted > of_memory:
        raise StartError(
            f"--max-context {wanted} does not fit {options.kv_cache_gb} GiB of key-value memory, which holds "
            f"{of_memory} tokens. Raise --kv-cache-gb or lower --max-context."
        )
    return wanted


def _service(options: Options, header: GgufHeader, engine: Engine) -> Service:
    return Service(
        engine=engine,
        tokenizer=Tokenizer(options.weights, header),
        served_name=options.served_name,
        weights_name=options.weights.name,
        max_model_len=engine.settings.max_model_len,
        fingerprint="",
        started_at=int(time.time()),
        api_key=options.api_key,
    )


def _fingerprint(options: Options, engine_name: str) -> str:
    # Names what an answer depends on besides the request. Samples of the weights are enough to tell two files apart.
    digest = hashlib.blake2b(f"{engine_name}/f32/{options.threads}".encode(), digest_size=6)
    size_bytes = options.weights.stat().st_size
    with options.weights.open("rb") as file:
        for part in range(16):
            file.seek(size_bytes * part // 16)
            digest.update(file.read(1 << 16))
    return f"fp_{digest.hexdigest()}"


async def _run(service: Service, listener: socket.socket) -> None:
    config = uvicorn.Config(
        create_app(service),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_S,
        # Clients pool connections: closing an idle one sooner than they do costs them a failed request.
        timeout_keep_alive=75,
        backlog=2048,
    )
    service.engine.start()
    await _Server(config).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, but a signal that was obeyed is a success: exit code 0, not death by signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the server gracefully."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say where."""
        try:
            await super().startup(sockets)
        except OSError as error:
            raise StartError(f"cannot listen: {error.strerror}. Choose another --port, or 0 for a free one.") from error
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            click.echo(f"ready: http://{f'[{host}]' if ':' in host else host}:{port}")


@contextlib.contextmanager
def _term_is_exit() -> Iterator[None]:
    # Until uvicorn takes over, a TERM must still run the clean-up: the F16 copy is large.
    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
