"""A hosted address that is a real nginx or haproxy in front of two servers."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from eval_pipelines.config import Config
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.lease import lease
from tests.serving.test_servers import ask_all, until

pytestmark = pytest.mark.slow
SERVER = Path(__file__).parent.parent / "faulty_server.py"

NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err; worker_processes 1; {user}
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream model {{ least_conn; server {first}; server {second}; }}
  server {{
    listen {address};
    location / {{ proxy_pass http://model; proxy_next_upstream error timeout non_idempotent; }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option redispatch
  option http-no-delay
  retries 2
listen model
  bind {address}
  option httpchk GET /health
  balance leastconn
  server first {first} check inter 300ms fall 1 rise 1
  server second {second} check inter 300ms fall 1 rise 1
"""
BALANCERS = {
    "nginx": (NGINX, ["nginx", "-c", "{config}", "-p", "{folder}"]),
    "haproxy": (HAPROXY, ["haproxy", "-db", "-f", "{config}"]),
}


@pytest.fixture
def servers() -> Iterator[list["subprocess.Popen[str]"]]:
    command = [sys.executable, str(SERVER), "--model", "mock@a"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    yield started
    for one in started:
        one.kill()
        one.communicate()


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("name", BALANCERS)
async def test_behind_a_balancer_no_answer_is_lost_when_one_of_its_servers_dies(tmp_path, servers, name: str) -> None:
    if shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") is None:
        pytest.skip(f"no {name} on this machine: `make system` installs it")
    urls = [one.stdout.readline().strip() for one in servers]
    text, argv = BALANCERS[name]
    address, config = free_address(), tmp_path / "balancer.conf"
    first, second = (url.removeprefix("http://") for url in urls)
    user = "user root;" if Path("/root").stat().st_uid == 0 and tmp_path.owner() == "root" else ""
    config.write_text(text.format(folder=tmp_path, address=address, first=first, second=second, user=user))
    command = [part.format(config=config, folder=tmp_path) for part in argv]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={"PATH": "/usr/sbin:/usr/bin"}) as balancer:
        try:
            await until(lambda: answers(f"http://{address}/health"))
            deployments = Config.parse(
                f"deployments: {{one: {{backend: hosted, base_url: 'http://{address}/v1'}}}}",
                path=Path("/nowhere/evals.yaml"),
            )
            model, n_seen = Model(ModelKey("mock", "a"), "one", "f00d"), 0

            def kill_once(_request, _response) -> None:
                nonlocal n_seen
                n_seen += 1
                if n_seen == 200:
                    servers[0].kill()

            how = deployments.deployment("one")
            async with lease(model, how, needs=("chat",), leases=tmp_path / "leases", secrets_={}) as endpoint:
                report = await ask_all(tmp_path, endpoint, 600, on_outcome=kill_once)
            assert (report.n_answered, report.n_failed) == (600, 0)
            seen = httpx.get(f"{urls[1]}/stats").json()["n_prompts"]
            assert 300 <= seen < 600, "both had their share"
        finally:
            balancer.kill()


async def test_of_a_list_of_addresses_none_is_asked_any_more_that_died_and_no_answer_is_lost(tmp_path, servers) -> None:
    urls = [one.stdout.readline().strip() for one in servers]
    addresses = [f"{url}/v1" for url in urls]
    deployments = Config.parse(
        f"deployments: {{one: {{backend: hosted, base_urls: {addresses}}}}}", path=Path("/nowhere/evals.yaml")
    )
    model, n_seen = Model(ModelKey("mock", "a"), "one", "f00d"), 0

    def kill_once(_request, _response) -> None:
        nonlocal n_seen
        n_seen += 1
        if n_seen == 200:
            servers[0].kill()

    how = deployments.deployment("one")
    async with lease(model, how, needs=("chat",), leases=tmp_path / "leases", secrets_={}) as endpoint:
        report = await ask_all(tmp_path, endpoint, 600, on_outcome=kill_once)
    assert (report.n_answered, report.n_failed) == (600, 0)
    assert 350 <= httpx.get(f"{urls[1]}/stats").json()["n_prompts"] < 600, "both had their share"


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
