"""Backends whose servers are not installed here, leased for real: a stand-in bears the server's name, takes the flags
and variables that the real one takes, and nothing else, and answers under the name the real one would answer under.

It proves that line, health route, served name and key fit together; not that the real server takes the flags.
"""

import asyncio
import os
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from eval_pipelines.config import Config, Deployment, Machine
from eval_pipelines.errors import StartError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.lease import lease, server_id
from eval_pipelines.serving.room import Room

pytestmark = pytest.mark.slow
FAULTY = Path(__file__).parent.parent / "faulty_server.py"

HEAD = f"#!{sys.executable}\nSERVER = {str(FAULTY)!r}\n" + textwrap.dedent("""
    import argparse, os, sys
    parser = argparse.ArgumentParser()

    def serve(model, port, key=None, health="/health"):
        sys.path.insert(0, os.path.dirname(SERVER))
        import faulty_server
        from starlette.routing import Route
        faulty_server.ROUTES += [Route(health, faulty_server.health)]
        if key:
            os.environ["FAULTY_API_KEY"] = os.environ[key]
        sys.argv = [SERVER, "--port", str(port), "--model", model]
        faulty_server.main()
""")
TRTLLM = """
    parser.add_argument("model")
    for name in ("host", "port", "tp_size", "max_seq_len"):
        parser.add_argument("--" + name)
    args = parser.parse_args()
    serve(os.path.basename(args.model), args.port)
"""
TGI = """
    for name in ("model-id", "hostname", "port", "master-port", "shard-uds-path", "num-shard", "max-total-tokens"):
        parser.add_argument("--" + name)
    args = parser.parse_args()
    assert os.environ["PROMETHEUS_PORT"] != args.port
    serve(args.model_id, args.port, key="API_KEY")
"""
LLAMA_CPP = """
    for name in ("model", "alias", "host", "port", "ctx-size", "parallel"):
        parser.add_argument("--" + name)
    parser.add_argument("--metrics", action="store_true", required=True)
    args = parser.parse_args()
    assert os.path.isfile(args.model)
    serve(args.alias, args.port, key="LLAMA_API_KEY")
"""
# as Ollama: the server knows no model until a second call makes one, which it finds in the store
OLLAMA = """
    import shutil, time
    store, host = os.environ["OLLAMA_MODELS"], os.environ["OLLAMA_HOST"]
    verb, *rest = sys.argv[1:]
    if verb == "list":
        sys.exit(0 if os.path.exists(store + "/listening") else 1)
    if verb == "create":
        name, _, file = rest
        first = open(file).readline()
        if not os.path.isfile(first.removeprefix("FROM ").strip()):
            sys.exit("Error: invalid file magic")
        open(store + "/made", "w").write(name)
        sys.exit(0)
    if verb == "cp":
        if rest[0] != "llama3.2:3b":
            sys.exit("Error: model not found")
        open(store + "/made", "w").write(rest[1])
        sys.exit(0)
    assert verb == "serve"
    time.sleep(0.3)
    open(store + "/listening", "w")
    while not os.path.exists(store + "/made") or not open(store + "/made").read():
        time.sleep(0.05)
    name = open(store + "/made").read()
    serve(name, host.split(":")[1], health="/v1/models/" + name)
"""


def stand_in(folder: Path, name: str, body: str) -> Path:
    program = folder / name
    program.write_text(HEAD + textwrap.dedent(body))
    program.chmod(0o755)
    return program


def deployment(text: str) -> Deployment:
    config = Config.parse(f"deployments: {{one: {{keep_warm_s: 0, {text}}}}}", path=Path("/nowhere/evals.yaml"))
    return config.deployment("one")


SGLANG = """
    parser.add_argument("-m", dest="module", required=True)
    for name in ("model-path", "served-model-name", "host", "port", "tp-size", "sampling-defaults"):
        parser.add_argument("--" + name)
    parser.add_argument("--enable-metrics", action="store_true", required=True)
    args = parser.parse_args()
    assert args.module == "sglang.launch_server"
    serve(args.served_model_name, args.port)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights = tmp_path / "step-100"
    weights.mkdir()
    for name in ("config.json", "model.safetensors"):
        (weights / name).touch()
    return weights


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    (tmp_path / "m.gguf").touch()
    return tmp_path / "m.gguf"


async def lease_and_leave(tmp_path: Path, how: Deployment, model: Model) -> tuple[str, str | None]:
    """The served name and the key of a lease whose server answered, and went when it was left."""
    leases = tmp_path / "leases"
    machine = Machine(gpus=2, folder=tmp_path / "machine")
    async with lease(
        model, how, needs=("chat", "completions"), leases=leases, secrets_={}, machine=machine
    ) as endpoint:
        running = Room(leases / server_id(model, how)).running()
        assert running is not None
        server = psutil.Process(running.servers[0].pid)
        family = [server, *server.children(recursive=True)]
        key = endpoint.headers.get("authorization")
        assert not any(key.split()[1] in word for one in family for word in one.cmdline()) if key else True
    gone, alive = await asyncio.to_thread(psutil.wait_procs, family, 20)
    assert [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert len(gone) <= len(family)
    return endpoint.served_name, key


async def test_trtllms_line_fits_its_routes_and_name(tmp_path, folder) -> None:
    program = stand_in(tmp_path, "trtllm-serve", TRTLLM)
    how = deployment(f"backend: trtllm, executable: {program}, tp_size: 2, max_seq_len: 4096")
    told = await lease_and_leave(tmp_path, how, Model(ModelKey("llama", "step-100"), "one", "f00d", folder))
    assert told == ("step-100", None)


async def test_tgis_line_fits_its_routes_name_and_key(tmp_path, folder) -> None:
    program = stand_in(tmp_path, "text-generation-launcher", TGI)
    how = deployment(f"backend: tgi, executable: {program}, num_shard: 2, max_total_tokens: 4096")
    name, key = await lease_and_leave(tmp_path, how, Model(ModelKey("llama", "step-100"), "one", "f00d", folder))
    assert name == str(folder)
    assert key is not None


async def test_llama_cpps_line_fits_its_routes_name_and_key(tmp_path, gguf) -> None:
    program = stand_in(tmp_path, "llama-server", LLAMA_CPP)
    how = deployment(f"backend: llama_cpp, executable: {program}, ctx_size: 4096, parallel: 2")
    name, key = await lease_and_leave(tmp_path, how, Model(ModelKey("qwen3-4b", "q4"), "one", "f00d", gguf))
    assert name == "qwen3-4b@q4"
    assert key is not None


async def test_sglangs_line_fits_its_routes_and_name(tmp_path, folder) -> None:
    program = stand_in(tmp_path, "python", SGLANG)
    how = deployment(f"backend: sglang, python: {program}, tp_size: 2")
    told = await lease_and_leave(tmp_path, how, Model(ModelKey("llama", "step-100"), "one", "f00d", folder))
    assert told == ("llama@step-100", None)


def with_ollama(tmp_path: Path) -> Deployment:
    (tmp_path / "store").mkdir()
    program = stand_in(tmp_path, "ollama", OLLAMA)
    store = tmp_path / "store"
    return deployment(f"backend: ollama, executable: {program}, models_folder: {store}, env: {{TMPDIR: {store}}}")


async def test_ollama_makes_its_model_from_the_gguf_file_before_it_is_ready(tmp_path, gguf) -> None:
    model = Model(ModelKey("qwen3-4b", "q4"), "one", "f00d", gguf)
    assert await lease_and_leave(tmp_path, with_ollama(tmp_path), model) == ("qwen3-4b:q4", None)
    assert list((tmp_path / "store").glob("tmp.*")) == [], "its Modelfile is removed"


async def test_ollama_copies_a_pulled_model_to_the_name_after_the_key(tmp_path) -> None:
    model = Model(ModelKey("llama3.2", "small"), "one", "f00d", served_name="llama3.2:3b")
    assert await lease_and_leave(tmp_path, with_ollama(tmp_path), model) == ("llama3.2:small", None)


async def test_a_model_that_ollama_never_pulled_ends_the_server_and_is_told(tmp_path) -> None:
    model = Model(ModelKey("other", "small"), "one", "f00d", served_name="other:3b")
    with pytest.raises(StartError, match="was never pulled on this machine"):
        async with lease(model, with_ollama(tmp_path), needs=("chat",), leases=tmp_path / "leases", secrets_={}):
            pass


async def test_an_ollama_dies_with_its_keeper(tmp_path, gguf) -> None:
    how, model = with_ollama(tmp_path), Model(ModelKey("qwen3-4b", "q4"), "one", "f00d", gguf)
    async with lease(model, how, needs=("chat",), leases=tmp_path / "leases", secrets_={}):
        running = Room(tmp_path / "leases" / server_id(model, how)).running()
        assert running is not None
        server = psutil.Process(running.servers[0].pid)
        os.kill(running.keeper_pid, 9)
        await asyncio.to_thread(psutil.wait_procs, [server], 10)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
