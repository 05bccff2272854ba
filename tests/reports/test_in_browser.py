"""Reports looked at by a real browser, on screens and on paper."""

from pathlib import Path

import pytest

from eval_pipelines.reports import Options, make, names
from tests.grid.test_ui import CHROMIUM, FLAGS, OUT
from tests.published_record import BOREALIS, LONG

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: `make system` installs it"),
]

# what is wider than the page (unless it scrolls by itself), and words that are cut
CUT = """
() => [...document.querySelectorAll('body *')].filter(e => {
  if (e.closest('.scroll, svg')) return false;
  const box = e.getBoundingClientRect();
  return box.right > innerWidth + 1 || (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'hidden');
}).map(e => e.outerHTML.slice(0, 120))
"""
OUTSIDE = """
() => [...document.querySelectorAll('svg text')].filter(e => {
  const box = e.getBBox(), frame = e.ownerSVGElement.viewBox.baseVal;
  return box.x < -1 || box.y < -1 || box.x + box.width > frame.width + 1 || box.y + box.height > frame.height + 1;
}).map(e => e.textContent)
"""


def test_pages_fit_each_screen_and_paper_and_run_nothing(record: Path, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    OUT.mkdir(exist_ok=True)
    found = [one for name in names() for one in make(record, name)]
    found += make(record, "comparison", Options(models=(BOREALIS, LONG)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        for number, (page, html) in enumerate(found):
            file = tmp_path / f"{number}.html"
            file.write_text(html)
            for look, width, scheme in (("phone", 390, "light"), ("wide", 1600, "dark"), ("print", 1030, "dark")):
                tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                asked: list[str] = []
                tab.on("request", lambda request, asked=asked: asked.append(request.url))
                tab.goto(file.as_uri())
                tab.emulate_media(media="print" if look == "print" else "screen")
                assert (tab.evaluate(CUT), tab.evaluate(OUTSIDE)) == ([], []), (page.path, look)
                assert (tab.title(), asked) == (page.title, [file.as_uri()])
                ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
                assert ground == ("rgb(18, 22, 29)" if look == "wide" else "rgb(255, 255, 255)")
                tab.screenshot(path=OUT / f"report-{number}-{look}.png")
                tab.close()
        browser.close()
