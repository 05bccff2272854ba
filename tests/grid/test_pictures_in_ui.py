"""Pictures in Dagster's UI: the course of requests in flight, in light and in dark, and what reports show."""

import re

import pytest

from tests.grid.test_ended_runs import wait_until
from tests.grid.test_ui import CHROMIUM, FLAGS, OUT, ui

pytestmark = pytest.mark.slow
__all__ = ["ui"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: `make system` installs it")
def test_the_course_of_requests_in_flight_is_drawn_and_a_report_is_made_once_it_is_published(
    ui: str, project, faulty
) -> None:
    from playwright.sync_api import sync_playwright

    OUT.mkdir(exist_ok=True)
    faulty.set(model="mock", latency_s=0.8, refuses_above=24)
    project.content["deployments"]["mock"]["max_in_flight"] = 64
    project.write()
    done = project.evaluate("gsm8k")
    assert done["returncode"] == 0, done["stderr"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1500, "height": 1400}, color_scheme=scheme)
            page.set_default_timeout(60_000)
            page.goto(f"{ui}/assets/responses/gsm8k?view=partitions&partition=mock%40a")
            page.get_by_text(re.compile(r"16 -> \d+ in flight, .*backed off .*429")).first.wait_for()
            page.get_by_role("row", name="in_flight_plot").get_by_text("Show Markdown").click()
            picture = page.locator('img[src^="data:image/svg+xml"]').first
            picture.wait_for()
            picture.scroll_into_view_if_needed()
            page.wait_for_timeout(500)
            page.screenshot(path=OUT / f"ui-course-{scheme}.png")
            assert picture.evaluate("image => image.naturalWidth") == 560
            page.close()
        # nobody asked for it: the sensors of the running UI saw the publication
        wait_until((project.data / "reports" / "index.html").exists, timeout_s=150)
        page = browser.new_page(viewport={"width": 1500, "height": 1400}, color_scheme="dark")
        page.set_default_timeout(60_000)
        page.goto(f"{ui}/assets/reports/leaderboard?view=overview")
        page.get_by_text("gsm8k: mock@a leads with").first.wait_for()
        page.get_by_role("row", name="preview").get_by_text("Show Markdown").click()
        picture = page.locator('img[src^="data:image/png"]').first
        picture.wait_for()
        page.wait_for_timeout(500)
        page.screenshot(path=OUT / "ui-report.png")
        assert picture.evaluate("image => image.naturalWidth") > 300
        browser.close()
    made = {
        path.relative_to(project.data / "reports").as_posix() for path in (project.data / "reports").rglob("*.html")
    }
    assert made == {"failures/failures.html", "index.html", "leaderboard/leaderboard.html"}
