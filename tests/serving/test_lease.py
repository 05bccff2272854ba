"""Leases on a real server process: started once, shared, watched, gone when nobody needs it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from eval_pipelines.config import Config, Machine
from eval_pipelines.errors import (
    ConfigError,
    NotReadyError,
    ServingError,
    SpendingLimitError,
    StartError,
    UnsupportedError,
    WrongModelError,
)
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.lease import lease, server_id
from eval_pipelines.serving.room import Room

SERVER = Path(__file__).parent.parent / "faulty_server.py"
MODEL = Model(ModelKey("mock", "a"), "one", "f00d", Path(__file__))
pytestmark = pytest.mark.slow


def deployment(text: str = "", *, argv: list[str] | None = None, keep_warm_s: float = 0.5):
    argv = argv or [sys.executable, str(SERVER), "--port", "{port}", "--model", "{model_key}"]
    config = Config.parse(
        f"deployments: {{one: {{backend: command, argv: {argv!r}, keep_warm_s: {keep_warm_s}, {text}}}}}",
        path=Path("/nowhere/evals.yaml"),
    )
    return config.deployment("one")


def borrow(tmp_path: Path, how=None, model: Model = MODEL, needs=("chat",), secrets=None):
    machine = Machine(folder=tmp_path / "machine")
    return lease(
        model, how or deployment(), needs=needs, leases=tmp_path / "leases", secrets_=secrets or {}, machine=machine
    )


def room_of(tmp_path: Path, how=None) -> Room:
    return Room(tmp_path / "leases" / server_id(MODEL, how or deployment()))


def is_alive(pid: int) -> bool:
    # a zombie counts as gone: PID 1 reaps when it likes
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(is_so: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        await asyncio.sleep(0.05)


async def test_a_lease_answers_for_its_model_and_the_server_goes_when_nobody_needs_it(tmp_path) -> None:
    async with borrow(tmp_path) as endpoint:
        assert endpoint.served_name == "mock@a"
        assert endpoint.offers == {"chat"}
        running = room_of(tmp_path).running()
        assert running is not None
    await until(lambda: not is_alive(running.servers[0].pid) and not is_alive(running.keeper_pid))


async def test_the_server_stays_while_a_second_lease_holds_it(tmp_path) -> None:
    async with borrow(tmp_path) as first:
        running = room_of(tmp_path).running()
        async with borrow(tmp_path) as second:
            assert second.url == first.url
        await asyncio.sleep(1.5)
        assert is_alive(running.servers[0].pid)


async def test_eight_processes_that_ask_at_once_start_one_server(tmp_path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, sys
        sys.path[:0] = [{str(SERVER.parent.parent)!r}, {str(Path(__file__).parent)!r}]
        from pathlib import Path
        from test_lease import borrow, room_of
        async def main():
            async with borrow(Path({str(tmp_path)!r})) as endpoint:
                print(endpoint.url, room_of(Path({str(tmp_path)!r})).running().servers[0].pid)
                await asyncio.sleep(0.5)
        asyncio.run(main())
    """)
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(8)]
    told = {process.communicate(timeout=90)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 8
    assert len(told) == 1
    pid = int(next(iter(told)).split()[-1])
    await until(lambda: not is_alive(pid))


async def test_a_holder_killed_with_kill_9_leaves_no_server_behind(tmp_path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, sys
        sys.path[:0] = [{str(SERVER.parent.parent)!r}, {str(Path(__file__).parent)!r}]
        from pathlib import Path
        from test_lease import borrow
        async def main():
            async with borrow(Path({str(tmp_path)!r})):
                print("held", flush=True)
                await asyncio.sleep(600)
        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline().strip() == "held"
        running = room_of(tmp_path).running()
        holder.kill()
    await until(lambda: not is_alive(running.servers[0].pid) and not is_alive(running.keeper_pid))


async def test_a_keeper_killed_with_kill_9_takes_its_server_along_and_the_next_lease_starts_a_new_one(tmp_path) -> None:
    async with borrow(tmp_path):
        first = room_of(tmp_path).running()
    os.kill(first.keeper_pid, signal.SIGKILL)
    await until(lambda: not is_alive(first.servers[0].pid))
    async with borrow(tmp_path):
        assert room_of(tmp_path).running().servers[0].pid != first.servers[0].pid


async def test_overwritten_weights_get_a_server_of_their_own(tmp_path) -> None:
    assert server_id(MODEL, deployment()) != server_id(Model(MODEL.key, "one", "beef", MODEL.weights), deployment())


async def test_a_server_that_dies_at_start_shows_its_last_lines_and_the_likely_cause(tmp_path) -> None:
    dies = "import sys; print('loading'); print('ModuleNotFoundError: No module named torch'); sys.exit(3)"
    how = deployment(argv=[sys.executable, "-c", dies])
    with pytest.raises(StartError) as caught:
        async with borrow(tmp_path, how):
            pass
    message = str(caught.value)
    assert "ended with status 3" in message
    assert "No module named torch" in message
    assert "Likely cause: a Python package is missing" in message
    assert "server-0.log" in message


@pytest.mark.parametrize(("n_missing", "is_told"), [(1, True), (0, False)])
async def test_a_server_that_ends_without_a_word_on_a_file_that_ends_early_is_told_so(
    tmp_path, small_model, n_missing, is_told
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(small_model.read_bytes()[: -1_000_000 * n_missing or None])
    how = deployment(argv=[sys.executable, "-c", "import sys; print('error: it failed'); sys.exit(1)"])
    with pytest.raises(StartError) as caught:
        async with borrow(tmp_path, how, model=replace(MODEL, weights=cut)):
            pass
    damaged = "Likely cause: the weights are damaged or still being written: cut.gguf ends early"
    assert (damaged in str(caught.value)) == is_told


async def test_a_program_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ServingError, match="no-such-server"):
        async with borrow(tmp_path, deployment(argv=["no-such-server", "{port}"])):
            pass


async def test_a_server_that_never_answers_is_given_up_after_its_time(tmp_path) -> None:
    how = deployment(
        "ready_timeout_s: 1.5", argv=[sys.executable, "-c", "import time; print('hm', flush=True); time.sleep(60)"]
    )
    with pytest.raises(NotReadyError, match=r"within ready_timeout_s = 1.5(.|\n)*hm"):
        async with borrow(tmp_path, how):
            pass


async def test_a_taken_port_is_refused_before_anything_is_started(tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is taken"):
            async with borrow(tmp_path, deployment(f"port: {port}")):
                pass
    assert room_of(tmp_path).running() is None


async def test_a_server_for_another_model_is_not_asked(tmp_path) -> None:
    how = deployment(argv=[sys.executable, str(SERVER), "--port", "{port}", "--model", "other@b"])
    with pytest.raises(WrongModelError, match=r"serves other@b, not 'mock@a'"):
        async with borrow(tmp_path, how):
            pass


async def test_the_servers_key_is_in_no_argument_list(tmp_path) -> None:
    how = deployment("key_env: FAULTY_API_KEY")
    async with borrow(tmp_path, how) as endpoint:
        key = endpoint.headers["authorization"].removeprefix("Bearer ")
        running = room_of(tmp_path, how).running()
        arguments = [psutil.Process(pid).cmdline() for pid in (running.servers[0].pid, running.keeper_pid)]
        assert not any(key in part for line in arguments for part in line)
        assert key not in repr(endpoint)
        notes = room_of(tmp_path, how).folder / "order.json"
        assert notes.stat().st_mode & 0o077 == 0


async def test_a_used_up_budget_is_no_broken_server_and_another_budget_needs_no_other_one(tmp_path) -> None:
    """A first request takes 6 tokens; all servers of a deployment count together."""
    async with borrow(tmp_path, deployment("daily_tokens: 8", keep_warm_s=30)) as first:
        with pytest.raises(SpendingLimitError, match="8 tokens a day for servers of one, 6 tokens are spent"):
            async with borrow(tmp_path, deployment("daily_tokens: 8", keep_warm_s=30)):
                pass
        async with borrow(tmp_path, deployment("daily_tokens: 100", keep_warm_s=30)) as second:
            assert (second.url, second.daily_budget.tokens) == (first.url, 100)
    os.kill(room_of(tmp_path, deployment(keep_warm_s=30)).running().keeper_pid, signal.SIGTERM)


# hosted


def hosted(faulty, text: str = ""):
    config = Config.parse(
        f"deployments: {{one: {{backend: hosted, base_url: '{faulty.url}', served_name: mock, {text}}}}}",
        path=Path("/nowhere/evals.yaml"),
    )
    return config.deployment("one")


async def test_a_hosted_endpoint_is_bound_with_the_key_its_variable_holds(tmp_path, faulty) -> None:
    faulty.set(model="mock", api_key="open-sesame")
    async with borrow(
        tmp_path, hosted(faulty, "api_key_env: MOCK_KEY"), secrets={"MOCK_KEY": "open-sesame"}
    ) as endpoint:
        assert endpoint.url == faulty.url


async def test_an_unset_key_variable_is_named(tmp_path, faulty) -> None:
    with pytest.raises(ConfigError, match="MOCK_KEY is not set"):
        async with borrow(tmp_path, hosted(faulty, "api_key_env: MOCK_KEY")):
            pass


async def test_a_wrong_key_is_told_by_its_variable_and_never_shown(tmp_path, faulty) -> None:
    faulty.set(model="mock", api_key="open-sesame")
    with pytest.raises(ServingError, match="refused the key in MOCK_KEY: HTTP 401") as caught:
        async with borrow(tmp_path, hosted(faulty, "api_key_env: MOCK_KEY"), secrets={"MOCK_KEY": "wrong-secret"}):
            pass
    assert "wrong-secret" not in str(caught.value)


async def test_an_endpoint_without_echo_is_refused_before_anything_is_asked(tmp_path, faulty) -> None:
    faulty.set(model="mock", echo=False)
    with pytest.raises(UnsupportedError, match="cannot do 'echo_logprobs'"):
        async with borrow(tmp_path, hosted(faulty), needs=("echo_logprobs",)):
            pass
    assert faulty.stats()["n_prompts"] == 0


async def test_an_endpoint_that_tells_only_the_chosen_token_does_not_offer_top_logprobs(tmp_path, faulty) -> None:
    faulty.set(model="mock", top_logprobs=False)
    with pytest.raises(UnsupportedError, match="only the chosen token"):
        async with borrow(tmp_path, hosted(faulty), needs=("echo_logprobs", "top_logprobs")):
            pass


async def test_an_address_where_nobody_listens_is_told_plainly(tmp_path) -> None:
    config = Config.parse(
        "deployments: {one: {backend: hosted, base_url: 'http://127.0.0.1:9/v1'}}", path=Path("/nowhere/evals.yaml")
    )
    with pytest.raises(NotReadyError, match=r"127\.0\.0\.1:9"):
        async with borrow(tmp_path, config.deployment("one")):
            pass


async def test_a_run_lets_go_of_its_server_once_the_configuration_says_another(tmp_path) -> None:
    # on one GPU the new server would wait for the old one, and that one for the end of this very run
    import dagster as dg

    from resources.endpoints import EndpointsResource

    (tmp_path / "weights").write_bytes(b"w")
    where = tmp_path / "evals.yaml"

    def configured(n: int) -> None:
        argv = [sys.executable, str(SERVER), "--port", "{port}", "--model", "{model_key}"]
        how = f"{{backend: command, argv: {argv!r}, keep_warm_s: 0.1, max_in_flight: {n}}}"
        where.write_text(
            f"data_root: {tmp_path}/data\nmachine: {{folder: {tmp_path}/machine}}\ndeployments: {{one: {how}}}\n"
            f"models: {{mock@a: {{deployment: one, weights: {tmp_path}/weights}}}}\n"
        )

    configured(4)
    endpoints = EndpointsResource(config_path=str(where))
    endpoints.setup_for_execution(dg.build_init_resource_context())
    rooms = []
    for n in (4, 8, 8):
        configured(n)
        model = endpoints.model("mock@a")
        rooms.append(Room(tmp_path / "data" / "leases" / server_id(model, endpoints.config.deployment("one"))))
        async with endpoints.lease(model, needs=("chat",)):
            pass
        assert len(rooms[-1].holders()) == 1, "between two benchmarks the run keeps its server"
        assert not rooms[0].holders() or n == 4
    endpoints.let_go()
    assert not rooms[-1].holders(), "nor does it keep one while it waits for another run"
    endpoints.teardown_after_execution(dg.build_init_resource_context())
    await until(lambda: not any(room.has_keeper() for room in rooms))


def test_what_a_model_costs_is_known_without_a_lease_where_someone_else_serves_it(tmp_path) -> None:
    from resources.endpoints import EndpointsResource

    where = tmp_path / "evals.yaml"
    (tmp_path / "config.json").write_text("{}")
    where.write_text(
        "prices: {per_million_tokens: {gpt-x: {prompt: 1, completion: 2}, '*': {prompt: 3, completion: 4}}}\n"
        "deployments: {far: {backend: hosted, base_url: 'http://a/v1', served_name: gpt-x}, own: {backend: command, argv: [x]}}\n"
        "models: {one@a: {deployment: far}, two@a: {deployment: far, served_name: other}, three@a: {deployment: own, weights: .}}\n"
    )
    endpoints = EndpointsResource(config_path=str(where))
    prices = [endpoints.price(endpoints.model(f"{name}@a"))[0] for name in ("one", "two", "three")]
    assert [price and price.prompt for price in prices] == [1, 3, None]
