"""Making reports and keeping them: `<data root>/reports/<report>/….html`, each beside its picture."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from eval_pipelines import plugins
from eval_pipelines.reports import _preview
from eval_pipelines.reports._page import Options, Page, findings, join, published, text
from eval_pipelines.warehouse.files import exclusive, write_failed
from eval_pipelines.warehouse.read import open_published

if TYPE_CHECKING:
    import duckdb

FOLDER: Final = "reports"
_LOCK_TIMEOUT_S: Final = 600.0
# what a reader of metadata looks through
_N_PICTURES: Final = 6


@dataclass(frozen=True, slots=True)
class Written:
    """One report as it lies on disk.

    Attributes:
        picture: Its media type and bytes, of the first pages of a report: PNG, or SVG on a machine without fonts.
    """

    page: Page
    html: Path
    picture: tuple[str, bytes] | None


def names() -> list[str]:
    """Every report, without importing any."""
    return plugins.names("reports")


def folder_of(data_root: Path) -> Path:
    """Where the reports of a data root lie."""
    return data_root.resolve() / FOLDER


def make(data_root: Path, name: str, options: Options | None = None) -> Iterator[tuple[Page, str]]:
    """The pages of one report, each with its HTML, of one published state.

    Raises:
        UnknownNameError: no report is called that, or the record knows no such model, family or benchmark.
        WarehouseError: nothing is published.
    """
    report = plugins.load("reports", name, kind="report")
    with closing(open_published(data_root)) as connection:
        footer = _footer(connection)
        for page in report.make(connection, options or Options()):
            yield page, page.html(footer)


def write_all(data_root: Path, report: str) -> list[Written]:
    """Make one report anew and put it in the place of the former one; what it no longer has is gone.

    Raises:
        WarehouseError: nothing is published, or the folder cannot be written. The former report stays.
    """
    root = folder_of(data_root)
    aside = root / f".{report}-{uuid.uuid4().hex[:8]}"
    try:
        with exclusive(root / ".lock", timeout_s=_LOCK_TIMEOUT_S):
            for litter in root.glob(f".{report}-*"):
                shutil.rmtree(litter, ignore_errors=True)
            aside.mkdir()
            written = [
                _write(root / report, aside, page, html, has_picture=i < _N_PICTURES)
                for i, (page, html) in enumerate(make(data_root, report))
            ]
            _put_in_place(aside, root / report)
    except OSError as error:
        raise write_failed(root / report, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return written


def _write(target: Path, aside: Path, page: Page, html: str, *, has_picture: bool) -> Written:
    # a report of one page is `leaderboard/leaderboard.html`, of many `comparison/a--b.html`
    name = page.path.split("/", 1)[-1]
    (aside / f"{name}.html").write_text(html, encoding="utf-8")
    if page.preview is None or not has_picture:
        return Written(page, target / f"{name}.html", None)
    png = _preview.png(page.preview)
    picture = ("image/svg+xml", _preview.svg(page.preview)) if png is None else ("image/png", png)
    (aside / f"{name}.{'svg' if png is None else 'png'}").write_bytes(picture[1])
    return Written(page, target / f"{name}.html", picture)


def _put_in_place(aside: Path, target: Path) -> None:
    """Each file is replaced in one step: whoever reads has the former or the new one whole."""
    target.mkdir(exist_ok=True)
    kept = {path.name for path in aside.iterdir()}
    for path in sorted(aside.iterdir()):
        os.replace(path, target / path.name)
    for path in target.iterdir():
        if path.name not in kept:
            path.unlink()


def write_index(data_root: Path, written: dict[str, list[Written]]) -> Path:
    """`reports/index.html`: every page that was made, with what it says first."""
    root = folder_of(data_root)
    with closing(open_published(data_root)) as connection:
        footer = _footer(connection)
    parts = []
    for pages in written.values():
        for one in pages:
            link = one.html.relative_to(root).as_posix()
            parts.append(
                Markup('<h2><a href="{}">{}</a></h2><p>{}</p>').format(link, text(one.page.title), text(one.page.about))
            )
            parts.append(findings([text(said) for said in one.page.findings[:3]], none=""))
    index = Page("index", "Reports", "Of the published record; each is one file that can be sent on.", join(parts))
    aside = root / f".index-{uuid.uuid4().hex[:8]}"
    try:
        aside.write_text(index.html(footer), encoding="utf-8")
        os.replace(aside, root / "index.html")
    except OSError as error:
        raise write_failed(root / "index.html", error) from error
    return root / "index.html"


def _footer(connection: "duckdb.DuckDBPyConnection") -> str:
    generation, published_at, version = published(connection)
    return (
        f"Made by eval-pipelines {version} from generation {generation} of the record, "
        f"published {published_at:%Y-%m-%d %H:%M} UTC."
    )
