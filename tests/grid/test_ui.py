"""The engineer's way: open the UI, click on a cell, see it succeed with its metadata. A real browser, a real server."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.grid.test_ended_runs import assert_gone, family, n_journalled, running, serve_slowly, wait_until

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")
OUT = Path(__file__).parent.parent / ".out"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def slow_model(project) -> None:
    """A model on a server of our own that takes its time."""
    serve_slowly(project)


@pytest.fixture
def ui(project) -> Iterator[str]:
    """`eval-pipelines ui` on the project, until its web server answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (project.folder / "ui.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "eval_pipelines.cli", "--config", str(project.config), "ui", "--port", str(port)],
        cwd=project.folder, env=project.environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        # Dagster copies an ignored SIGINT to SIGTERM, and could then not be stopped
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                httpx.get(f"{url}/server_info", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline, (project.folder / "ui.log").read_text()[-3000:]
                time.sleep(0.3)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        _kill_group(process)
        log.close()


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: `make system` installs it")
def test_a_cell_materialized_by_clicking_succeeds_and_shows_its_score(ui: str, project, faulty) -> None:
    from playwright.sync_api import sync_playwright

    OUT.mkdir(exist_ok=True)
    faulty.set(model="mock", answers={"": "#### 18"})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        for asset in ("responses", "scores"):
            _materialize(page, f"{ui}/assets/{asset}/gsm8k?view=partitions", "mock@a")
        page.goto(f"{ui}/assets/scores/gsm8k?view=partitions&partition=mock%40a")
        page.get_by_text("ci_low").first.wait_for()
        body = page.inner_text("body")
        page.wait_for_timeout(1000)
        page.screenshot(path=OUT / "ui-cell.png")
        page.goto(f"{ui}/locations/eval_pipelines.definitions/asset-groups/scores/lineage")
        page.get_by_text("gsm8k").first.wait_for()
        page.wait_for_timeout(2000)
        page.screenshot(path=OUT / "ui-lineage.png")
        browser.close()
    assert re.search(r"exact_match,flexible-extract 0\.\d{3}", body), body[-2000:]
    assert "100 of 100 graded" in body
    assert faulty.stats()["answered"] == 100


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: `make system` installs it")
def test_a_run_terminated_by_clicking_lets_its_server_go_and_keeps_its_answers(slow_model, ui: str, project) -> None:
    from playwright.sync_api import sync_playwright

    OUT.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        _launch(page, f"{ui}/assets/responses/gsm8k?view=partitions", "local@a")
        wait_until(lambda: n_journalled(project) >= 8)
        processes = family(running(project))
        page.goto(f"{ui}/runs/{_run_of(ui, 'local@a')}")
        page.get_by_text("Started").first.wait_for()
        page.get_by_role("button", name=re.compile("Terminate")).first.click()
        page.wait_for_timeout(500)
        page.screenshot(path=OUT / "ui-terminate.png")
        page.get_by_role("dialog").get_by_role("button", name=re.compile("Terminate|termination")).click()
        assert_gone(processes)
        page.goto(f"{ui}/runs")
        page.get_by_text("Canceled").first.wait_for()
        page.screenshot(path=OUT / "ui-terminated.png")
        browser.close()
    assert running(project) is None
    assert n_journalled(project) >= 8


def _run_of(ui: str, partition: str) -> str:
    tag = f'{{key: "dagster/partition", value: "{partition}"}}'
    query = f"{{ runsOrError(filter: {{tags: [{tag}]}}) {{ ... on Runs {{ results {{ runId }} }} }} }}"
    reply = httpx.post(f"{ui}/graphql", json={"query": query}, timeout=30).json()
    return reply["data"]["runsOrError"]["results"][0]["runId"]


def _materialize(page, url: str, model: str) -> None:
    """Launch one partition, and wait until its dot is green."""
    _launch(page, url, model)
    page.goto(url)
    deadline = time.monotonic() + 120
    while "Materialized(1)" not in re.sub(r"\s", "", page.inner_text("body")):
        assert time.monotonic() < deadline, page.inner_text("body")[-2000:]
        page.wait_for_timeout(500)


def _open(button, inner) -> None:
    """Click until it is open: a dialog that loads while it is clicked is drawn anew, and closed."""
    from playwright.sync_api import TimeoutError as NotThere

    for _ in range(8):
        button.click()
        try:
            return inner.wait_for(timeout=8_000)
        except NotThere:
            continue
    raise AssertionError("the list of partitions does not open")


def _launch(page, url: str, model: str) -> None:
    """Choose one partition in the dialog, and launch it."""
    page.goto(url)
    # the sensor adds declared models as partitions a moment after the daemon started
    page.get_by_text(model, exact=True).first.wait_for()
    page.get_by_role("button", name="Materialize").first.click()
    sure = page.get_by_role("button", name="Confirm")
    partitions = page.get_by_role("dialog").locator('[aria-haspopup="dialog"]').first
    sure.or_(partitions).first.wait_for()
    if sure.count():
        sure.click()  # the questions were not landed yet; asking lands them too
    dialog = page.get_by_role("dialog").first
    chooser = page.locator("[data-radix-popper-content-wrapper]").last
    _open(partitions, chooser.locator("input").first)
    chooser.locator("input").first.fill(model)
    chooser.get_by_text(model, exact=True).first.click()
    page.keyboard.press("Escape")
    page.screenshot(path=OUT / "ui-dialog.png")
    dialog.get_by_role("button", name="Launch 1 run").click()
    dialog.wait_for(state="detached")
