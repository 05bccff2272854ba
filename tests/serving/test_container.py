"""Servers in containers: the lines, and their life with a stand-in for the runtime."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import ValidationError

from eval_pipelines.container_spec import Container
from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import ServerCommand, nim, sglang, tgi, trtllm, vllm
from eval_pipelines.serving.container import Contained, contain

FAULTY = Path(__file__).parent.parent / "faulty_server.py"
NAME = "llama-step-100-3f2a-9c1d"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    return Model(ModelKey("llama", "step-100"), "gpu", "f00d", tmp_path)


def contained(backend, model: Model, container: Container, *, gpus=(0, 1), **options) -> Contained:
    command = backend.command(backend.Spec(**options), model, host=container.listen_host, port=8001)
    return contain(command, container, name=NAME, port=8001, gpus=gpus, weights=model.weights)


def line(argv, model: Model) -> str:
    return " ".join(argv).replace(str(model.weights), "WEIGHTS")


HEAD = f'docker run --rm --init --name {NAME} --network host --ipc host --gpus "device=0,1"'
MOUNT = "--mount type=bind,source=WEIGHTS,target=WEIGHTS,readonly"


@pytest.mark.unit
def test_vllms_image_runs_the_vllm_command(model) -> None:
    told = contained(vllm, model, Container(image="vllm/vllm-openai:v0.32.0"), tensor_parallel_size=2)
    assert line(told.command.argv, model) == (
        f"{HEAD} {MOUNT} --env VLLM_NO_USAGE_STATS=1 --env DO_NOT_TRACK=1 --env VLLM_API_KEY --entrypoint vllm"
        " vllm/vllm-openai:v0.32.0 serve WEIGHTS --served-model-name llama@step-100 --generation-config vllm"
        " --tensor-parallel-size 2 --host 127.0.0.1 --port 8001"
    )
    assert (told.command.env, told.command.key_env) == ({}, "VLLM_API_KEY")
    assert told.stop == ["docker", "stop", "-t", "10", NAME]
    assert told.kill == ["docker", "rm", "--force", NAME]


@pytest.mark.unit
def test_sglangs_image_under_podman_gets_devices_by_name(model) -> None:
    container = Container(image="lmsysorg/sglang:latest", runtime="podman", ipc="private", shm_size="16g", user="me")
    told = contained(sglang, model, container, tp_size=2)
    assert line(told.command.argv, model) == (
        f"podman run --rm --init --name {NAME} --network host --shm-size 16g --device nvidia.com/gpu=0"
        f" --device nvidia.com/gpu=1 --user {os.getuid()}:{os.getgid()} {MOUNT} --entrypoint python3"
        " lmsysorg/sglang:latest -m sglang.launch_server --model-path WEIGHTS --served-model-name llama@step-100"
        " --sampling-defaults openai --enable-metrics --tp-size 2 --host 127.0.0.1 --port 8001"
    )
    assert told.kill[0] == "podman"


@pytest.mark.unit
def test_tgis_image_is_the_launcher_itself(model) -> None:
    container = Container(image="huggingface/text-generation-inference:3", entrypoint="is_program")
    told = contained(tgi, model, container, num_shard=2)
    assert line(told.command.argv, model) == (
        f"{HEAD} {MOUNT} --env PROMETHEUS_PORT=8003 --env USAGE_STATS=off --env API_KEY"
        " huggingface/text-generation-inference:3 --model-id WEIGHTS --num-shard 2 --master-port 8002"
        " --shard-uds-path /tmp/tgi-8001 --hostname 127.0.0.1 --port 8001"
    )


@pytest.mark.unit
def test_tensorrt_llms_image_wraps_the_command_line(model) -> None:
    container = Container(
        image="registry.example/nvidia/tensorrt-llm/release:1.2",
        entrypoint="wraps",
        mounts=["/etc/trtllm.yaml", "/cache:/c:rw"],
    )
    told = contained(trtllm, model, container, tp_size=2, extra_llm_api_options="/etc/trtllm.yaml")
    assert line(told.command.argv, model) == (
        f"{HEAD} {MOUNT} --mount type=bind,source=/etc/trtllm.yaml,target=/etc/trtllm.yaml,readonly"
        " --mount type=bind,source=/cache,target=/c registry.example/nvidia/tensorrt-llm/release:1.2 trtllm-serve WEIGHTS"
        " --tp_size 2 --extra_llm_api_options /etc/trtllm.yaml --host 127.0.0.1 --port 8001"
    )


@pytest.mark.unit
def test_a_nim_has_a_network_of_its_own_and_its_key_by_name() -> None:
    bare = Model(ModelKey("llama", "nim"), "gpu", "f00d")
    container = Container(
        image="registry.example/nim/meta/llama-3.1-8b-instruct:1",
        network="loopback",
        mounts=["/nim:/opt/nim/.cache:rw"],
    )
    told = contained(nim, bare, container, gpus=(3,))
    assert " ".join(told.command.argv) == (
        f'docker run --rm --init --name {NAME} --publish 127.0.0.1:8001:8001 --ipc host --gpus "device=3"'
        " --mount type=bind,source=/nim,target=/opt/nim/.cache --env NIM_SERVED_MODEL_NAME=llama@nim"
        " --env NIM_SERVER_PORT=8001 --env NGC_API_KEY registry.example/nim/meta/llama-3.1-8b-instruct:1"
    )


@pytest.mark.unit
def test_a_server_that_binds_every_interface_never_gets_the_machines_network() -> None:
    bare = Model(ModelKey("llama", "nim"), "gpu", "f00d")
    with pytest.raises(ConfigError, match="set `network: loopback`"):
        contained(nim, bare, Container(image="nim:1"))


@pytest.mark.unit
def test_a_server_without_gpus_sees_none_and_this_machines_choice_of_devices_stays_outside(model) -> None:
    command = ServerCommand(argv=["serve"], env={"CUDA_VISIBLE_DEVICES": "2,3", "PYTHONPATH": "", "A": "1"})
    told = contain(command, Container(image="i"), name=NAME, port=1)
    assert [word for word in told.command.argv if "=" in word] == ["NVIDIA_VISIBLE_DEVICES=void", "A=1"]
    assert "--gpus" not in told.command.argv


@pytest.mark.unit
def test_no_value_of_a_secret_stands_in_the_line(model) -> None:
    command = ServerCommand(argv=["serve"], env={"KEY": "s3cret", "HF_TOKEN": "t0ken"}, key_env="KEY")
    told = contain(command, Container(image="i", pass_env=["HF_TOKEN"]), name=NAME, port=1)
    assert "s3cret" not in str(told.command.argv)
    assert "t0ken" not in str(told.command.argv)
    assert " ".join(told.command.argv).count("--env KEY --env HF_TOKEN ") == 1


@pytest.mark.unit
def test_folders_that_links_among_the_weights_lead_to_are_mounted_too(tmp_path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1234").touch()
    (snapshot / "model.safetensors").symlink_to(blobs / "1234")
    (snapshot / "again.safetensors").symlink_to(snapshot / "model.safetensors")
    told = contain(ServerCommand(argv=["serve"]), Container(image="i"), name=NAME, port=1, weights=snapshot)
    mounted = [word for word in told.command.argv if word.startswith("type=bind")]
    assert mounted == [f"type=bind,source={one},target={one},readonly" for one in (snapshot, blobs)]


@pytest.mark.unit
def test_a_path_that_cannot_be_mounted_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be mounted"):
        contain(ServerCommand(argv=["s"]), Container(image="i"), name=NAME, port=1, weights=tmp_path / "a,b")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "--privileged"}, "must be the name of an image"),
        ({"extra_args": ["--name", "x"]}, "the server's identity is its name"),
        ({"extra_args": ["-p8000:8000"]}, "as a word of its own"),
        ({"extra_args": ["--env=KEY=1"]}, "use the deployment's `env`"),
        ({"extra_args": ["--detach"]}, "must live as long as the container"),
        ({"mounts": ["weights"]}, "must be a full path"),
        ({"mounts": ["/a:b"]}, "must be a full path"),
        ({"pass_env": ["HF_TOKEN=abc"]}, "never their values"),
        ({"shm_size": "16g"}, "needs `ipc: private`"),
    ],
)
def test_what_would_break_the_line_is_refused(options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        Container(**{"image": "i", **options})


# As docker: the container is a child of a daemon, not of the client; the client waits for it, hands TERM on, and dies
# alone of KILL. Knows the arguments that contain() writes, and nothing else.
DOCKER = f"#!{sys.executable}\nSERVER = {str(FAULTY)!r}\n" + textwrap.dedent("""
    import argparse, os, signal, subprocess, sys, time
    state = os.environ["STATE"]
    verb, args = sys.argv[1], sys.argv[2:]

    def is_alive(pid):
        try:
            return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    if verb in ("stop", "rm"):
        try:
            pid = int(open(f"{state}/{args[-1]}").read())
        except OSError:
            sys.exit(f"Error: No such container: {args[-1]}")
        os.kill(pid, signal.SIGTERM if verb == "stop" else signal.SIGKILL)
        ends = time.monotonic() + (float(args[1]) if verb == "stop" else 5)
        while is_alive(pid) and time.monotonic() < ends:
            time.sleep(0.05)
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
        sys.exit(0)

    parser = argparse.ArgumentParser()
    for name in ("name", "network", "ipc", "gpus", "entrypoint"):
        parser.add_argument("--" + name)
    for name in ("env", "mount", "publish"):
        parser.add_argument("--" + name, action="append", default=[])
    parser.add_argument("--rm", action="store_true", required=True)
    parser.add_argument("--init", action="store_true", required=True)
    parser.add_argument("image")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    run = parser.parse_args(args)
    inside = {"PATH": os.environ["PATH"]}
    for one in run.env:
        name, is_given, value = one.partition("=")
        inside[name] = value if is_given else os.environ[name]
    assert run.entrypoint == "stand-in" and run.image == "image:1"
    starter = os.fork()  # the daemon
    if starter == 0:
        os.setsid()
        server = subprocess.Popen([sys.executable, SERVER, *run.rest], env=inside)
        open(f"{state}/{run.name}.tmp", "w").write(str(server.pid))
        os.rename(f"{state}/{run.name}.tmp", f"{state}/{run.name}")
        code = server.wait()
        os.unlink(f"{state}/{run.name}")
        os._exit(code & 0xff)
    path = f"{state}/{run.name}"
    signal.signal(signal.SIGTERM, lambda *_: os.kill(int(open(path).read()), signal.SIGTERM))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(starter, 0)[1]))
""")


STUBBORN = '["sleep", "60"], preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)'


class Runtime:
    """A container started through the stand-in."""

    def __init__(self, folder: Path, *, ignores_term: bool = False) -> None:
        program = folder / "docker"
        program.write_text(DOCKER.replace("[sys.executable, SERVER, *run.rest]", STUBBORN) if ignores_term else DOCKER)
        program.chmod(0o755)
        self.state = folder / "state"
        self.state.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = ServerCommand(
            argv=["stand-in", "--port", str(self.port), "--model", "mock@a"], key_env="FAULTY_API_KEY"
        )
        told = contain(command, Container(image="image:1"), name=NAME, port=self.port, grace_s=1)
        self.stop, self.kill = [str(program), *told.stop[1:]], [str(program), *told.kill[1:]]
        self.env = {**os.environ, "STATE": str(self.state), "FAULTY_API_KEY": "s3cret"}
        self.client = subprocess.Popen([str(program), *told.command.argv[1:]], env=self.env, stdout=subprocess.DEVNULL)

    def run(self, argv: list[str]) -> int:
        return subprocess.run(argv, env=self.env, stderr=subprocess.DEVNULL, timeout=20).returncode

    def inside(self) -> psutil.Process:
        deadline = time.monotonic() + 20
        while not (self.state / NAME).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return psutil.Process(int((self.state / NAME).read_text()))

    def status(self) -> int:
        """Of the server's route that needs the key; 0 while nobody listens."""
        try:
            reply = httpx.post(
                f"http://127.0.0.1:{self.port}/v1/completions",
                json={"prompt": "Hi"},
                headers={"authorization": "Bearer s3cret"},
            )
        except httpx.HTTPError:
            return 0
        return reply.status_code


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def runtime(tmp_path: Path):
    started: list[Runtime] = []

    def start(**options) -> Runtime:
        started.append(Runtime(tmp_path, **options))
        return started[-1]

    yield start
    for one in started:
        one.run(one.kill)
        one.client.kill()
        one.client.wait()


@pytest.mark.slow
def test_a_container_answers_with_its_key_outlives_its_client_and_is_ended_by_its_stop_line(runtime) -> None:
    one = runtime()
    server = one.inside()
    deadline = time.monotonic() + 30
    while one.status() != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not any("s3cret" in word for word in one.client.args)
    one.client.send_signal(signal.SIGKILL)
    one.client.wait()
    assert one.status() == 200, "killing the client does not end the container"
    assert one.run(one.stop) == 0
    assert not is_alive(server)
    assert one.run(one.stop) == 1, "it is gone, which is no error to who stops it"


@pytest.mark.slow
def test_a_container_that_ignores_term_is_killed_after_its_grace(runtime) -> None:
    one = runtime(ignores_term=True)
    server = one.inside()
    began = time.monotonic()
    one.run(one.stop)
    assert not is_alive(server)
    assert time.monotonic() - began >= 1


@pytest.mark.slow
def test_the_kill_line_ends_a_container_at_once_and_its_client_with_it(runtime) -> None:
    one = runtime(ignores_term=True)
    server = one.inside()
    assert one.run(one.kill) == 0
    assert not is_alive(server)
    assert one.client.wait(10) != 0
