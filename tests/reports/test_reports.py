"""Reports: what they say, that nothing in them does anything, and that they are replaced whole."""

import itertools
import re
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from eval_pipelines.cli import main
from eval_pipelines.errors import ConfigError, UnknownNameError, WarehouseError
from eval_pipelines.reports import Options, _preview, _theme, make, names, write_all, write_index
from eval_pipelines.reports._picture import label, shortened, ticks
from eval_pipelines.warehouse.publish import publish
from tests.published_record import BOREALIS, LONG
from tests.warehouse.builders import evaluation, land, metric

pytestmark = pytest.mark.slow

GOOD, BAD = "atlas-1b@step-02000", "atlas-1b@step-02500"
MODELS = "comparison", Options(models=(BOREALIS, LONG))


class Contents(HTMLParser):
    """Everything in a page that could act or load, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.acting: list[str] = []
        self.loading: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("script", "iframe", "object", "embed", "form", "link", "base", "img"):
            self.acting.append(tag)
        self.acting += [name for name, _ in attrs if name.startswith("on")]
        self.loading += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def pages(record: Path) -> list[tuple[str, str]]:
    """Every page there is by default, and one with the hostile answer."""
    found = [(page.path, html) for name in names() for page, html in make(record, name)]
    return found + [(page.path, html) for page, html in make(record, *MODELS)]


def test_pages_load_nothing_and_do_nothing_whatever_a_model_wrote(record) -> None:
    hostile = 0
    for path, html in pages(record):
        contents = Contents(html)
        assert (contents.acting, contents.loading) == ([], []), path
        assert "url(" not in html
        assert "default-src 'none'" in html or "default-src &#39;none&#39;" in html
        hostile += "<script>document.title='owned'</script>" in contents.text
        # what turns the reading direction or moves a cursor is spelled out
        assert not set("\u202e\x1b") & set(html)
    assert hostile == 1


def test_what_a_server_wrote_is_shown_as_text(record) -> None:
    [(_, html)] = make(record, "failures")
    assert "503: the queue is full, <b>come back later</b>" in Contents(html).text
    assert "overloaded: 3 of 4 failures." in Contents(html).text


def test_training_progress_says_where_it_got_worse(record) -> None:
    [(page, html)] = make(record, "training_progress", Options(families=("atlas-1b",)))
    assert [said[:50] for said in page.findings] == ["gsm8k: step-02500 is worse than step-02000: −0.300"]  # noqa: RUF001
    assert page.findings[0].endswith("It stays so when corrected (Holm) for 3 benchmarks.")
    assert html.count('class="worse small strong"') == 1
    assert "word_perplexity, n = 20, lower is better" in Contents(html).text


def test_a_family_of_one_checkpoint_has_no_progress_unless_it_is_asked_for(record) -> None:
    assert [page.path for page, _ in make(record, "training_progress")] == ["training_progress/atlas-1b"]
    [(page, html)] = make(record, "training_progress", Options(families=("borealis-8b",)))
    assert "hollow" in html  # not every question was answered
    assert page.findings == ()


def test_of_very_many_checkpoints_the_last_are_told_and_all_are_drawn(record, monkeypatch) -> None:
    monkeypatch.setattr("eval_pipelines.reports.training_progress._N_TOLD", 2)
    [(page, html)] = make(record, "training_progress")
    assert html.count('class="dot"') == 6 + 6 + 4
    assert "The last 2; 4 earlier ones are in the picture only." in Contents(html).text
    assert html.count("step-02000") < html.count("step-02500")
    assert len(page.findings) == 1  # 2500 is worse than 2000, which is not in the table


def test_the_heat_map_has_every_cell_with_its_interval_and_tells_what_is_missing(record) -> None:
    [(page, html)] = make(record, "leaderboard")
    cells = re.findall(r'<td class="(heat-\d best|heat-\d|none)" title="([^"]*)">', html)
    assert len(cells) == 8 * 3
    assert sum(kind == "none" for kind, _ in cells) == 5
    assert "5 of 24 cells without a number" in page.about
    best = {title.split(":")[0] for kind, title in cells if kind.endswith("best")}
    assert best == {f"{BOREALIS} on gsm8k", "atlas-1b@step-03000 on arc", "atlas-1b@step-03000 on wiki"}
    assert f"{BOREALIS} on gsm8k: 0.804 (0.682 to 0.887); 0.750 to 0.817 of all, n = 56/60, rank 1" in html
    assert ">0.804*<" in html.replace("\n", "")


def test_a_comparison_shows_each_changed_question_with_both_answers_side_by_side(record) -> None:
    [(page, html)] = make(record, "comparison", Options(models=(GOOD, BAD), benchmarks=("gsm8k",)))
    assert page.findings[0].startswith("gsm8k: B is worse: −0.300 (95 %: −0.4")  # noqa: RUF001
    assert html.count('<section class="flip">') == 18
    first = html.split('<section class="flip">')[1].split("</section>")[0]
    assert [part.split("<")[0][-6:] for part in first.split('class="said ')[1:]] == ["#### 0", "#### 1"]


def test_without_names_the_newest_checkpoint_is_compared_with_the_one_before(record) -> None:
    found = [page.path for page, _ in make(record, "comparison")]
    assert found[0] == "comparison/atlas-1b@step-02500--atlas-1b@step-03000"
    assert f"comparison/atlas-1b@step-03000--{BOREALIS}" in found


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("leaderbord", Options(), "no report is called 'leaderbord'. Did you mean 'leaderboard'?"),
        ("comparison", Options(models=(GOOD, "atlas-1b@step-0250")), "Did you mean 'atlas-1b@step-02500'?"),
        ("comparison", Options(models=(GOOD,)), "of two models, not 1"),
        ("training_progress", Options(families=("atlas",)), "Did you mean 'atlas-1b'?"),
        ("leaderboard", Options(benchmarks=("gsm",)), "no benchmark in this record is called 'gsm'"),
        ("failures", Options(models=("x",)), "no model in this record is called 'x'"),
    ],
)
def test_a_wrong_name_is_told_with_the_near_miss(record, name, options, message) -> None:
    with pytest.raises(ConfigError) as told:
        list(make(record, name, options))
    assert message in str(told.value)
    assert isinstance(told.value, UnknownNameError) or "two models" in message


def test_a_record_of_one_cell_and_one_of_nothing_have_their_reports(tmp_path) -> None:
    (tmp_path / "none" / "landing").mkdir(parents=True)
    publish(tmp_path / "none")
    assert [page for name in names() for page, _ in make(tmp_path / "none", name)] == []
    land(tmp_path / "one", evaluation("only@main"), (None, None), metrics=[metric(None, n=0, n_asked=2)])
    publish(tmp_path / "one")
    found = {page.path: html for name in names() for page, html in make(tmp_path / "one", name)}
    assert sorted(found) == ["failures", "leaderboard"]
    assert ">ungraded</td>" in found["leaderboard"]
    assert "1 of 1 cells without a number" in found["leaderboard"]
    with pytest.raises(WarehouseError, match="eval-pipelines publish"):
        list(make(tmp_path / "nowhere", "leaderboard"))


def test_reports_are_replaced_whole_with_their_pictures_and_an_index(tmp_path) -> None:
    for step in (1, 2):
        land(tmp_path, evaluation(f"tiny@step-{step}"))
    publish(tmp_path)
    folder = tmp_path / "reports" / "training_progress"
    folder.mkdir(parents=True)
    (folder / "gone.html").write_text("of a family that is no more")
    written = {name: write_all(tmp_path, name) for name in names()}
    write_index(tmp_path, written)
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.html", "tiny.png"]
    assert (folder / "tiny.png").read_bytes().startswith(b"\x89PNG")
    index = Contents((tmp_path / "reports" / "index.html").read_text())
    assert {(tmp_path / "reports" / link).exists() for link in index.loading} == {True}
    assert [path.name for path in (tmp_path / "reports").iterdir() if path.name.startswith(".")] == [".lock"]


def test_a_failed_report_leaves_the_former_one(tmp_path, monkeypatch) -> None:
    land(tmp_path, evaluation())
    publish(tmp_path)
    [former] = write_all(tmp_path, "leaderboard")
    monkeypatch.setattr("eval_pipelines.reports._preview.png", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_all(tmp_path, "leaderboard")
    assert sorted(path.name for path in former.html.parent.iterdir()) == ["leaderboard.html", "leaderboard.png"]
    assert [*(tmp_path / "reports").glob(".leaderboard-*")] == []


def test_without_fonts_a_picture_is_an_svg(record, monkeypatch) -> None:
    [(page, _)] = make(record, "leaderboard")
    assert page.preview is not None
    image = _preview.png(page.preview)
    assert image is not None
    assert image.startswith(b"\x89PNG")
    assert len(image) < 150_000
    monkeypatch.setattr(_preview, "_drawn", lambda svg, zoom: b"nothing but white")
    _preview.has_fonts.cache_clear()
    try:
        assert _preview.png(page.preview) is None
    finally:
        _preview.has_fonts.cache_clear()
    assert _preview.svg(page.preview).startswith(b"<svg xmlns=")


def test_the_command_writes_a_page_where_it_is_told(record, tmp_path) -> None:
    config = tmp_path / "evals.yaml"
    config.write_text(
        f"data_root: {record}\ndeployments: {{a: {{backend: hosted, base_url: 'http://127.0.0.1:1/v1'}}}}\n"
        "models: {m@a: {deployment: a}}\nbenchmarks: {gsm8k: {task: gsm8k, protocol: chat}}\n"
    )
    words = ["--config", str(config), "report", "comparison", "--model", GOOD, "--model", BAD]
    told = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "x.html")])
    assert told.stdout.split() == [str(tmp_path / "x.html")]
    assert "<title>Comparison of" in (tmp_path / "x.html").read_text()
    assert not [path for path in record.iterdir() if path.name == "reports"]
    nameless = CliRunner().invoke(main, ["--config", str(config), "report", "--family", "atlas-1b"])
    assert "which report? Name one of comparison, failures, leaderboard, training_progress" in nameless.stderr


# colours and axes


def contrast(one: str, other: str) -> float:
    """Source  WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [_theme.LIGHT, _theme.DARK], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_their_ground(theme) -> None:
    texts = [(name, ground) for name in ("ink", "muted", "worse", "better", "mark") for ground in ("ground", "raised")]
    texts += [("ink", "band")] + [(f"on-heat-{i}", f"heat-{i}") for i in range(_theme.N_HEAT)]
    assert {pair for pair in texts if contrast(theme[pair[0]], theme[pair[1]]) < 4.5} == set()
    marks = [("mark", "ground"), ("mark", "band"), ("worse", "band"), ("better", "band"), ("other", "ground")]
    assert {pair for pair in marks if contrast(theme[pair[0]], theme[pair[1]]) < 3} == set()
    # the heat goes one way, so that it can be read without seeing its hue
    heat = [contrast(theme[f"heat-{i}"], theme["ground"]) for i in range(_theme.N_HEAT)]
    assert heat == sorted(heat)


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-6, 1e6))
def test_ticks_are_round_enclose_the_values_and_are_told_apart(low, span) -> None:
    marks = ticks(low, low + span)
    step = marks[1] - marks[0]
    assert marks[0] <= low + step * 1e-6
    assert marks[-1] >= low + span - step * 1e-6
    assert 2 <= len(marks) <= 12
    if span > abs(low) * 1e-6:
        words = [label(mark, step) for mark in marks]
        assert len({*words}) == len(words)


def test_a_tick_of_a_half_is_not_rounded_away() -> None:
    assert [label(mark, 2.5) for mark in (20.0, 22.5)] == ["20.0", "22.5"]
    assert [label(mark, 0.05) for mark in (-0.05, 0.0)] == ["−0.05", "0.00"]  # noqa: RUF001


def test_a_long_name_keeps_both_its_ends() -> None:
    assert shortened("a-long-family@step-123456", 80) == "a-l…123456"
    assert all(len(shortened("x" * n, 80)) <= 11 for n in range(40))


def test_the_record_of_the_tests_is_read_only(record) -> None:
    """A test that writes into the shared record would make the others depend on it."""
    with closing(open(record / "scores.duckdb", "rb")) as file:
        assert file.read(12)[8:12] == b"DUCK"
    assert {path.name for path in record.iterdir()} <= {"landing", "published", "scores.duckdb", ".publish.lock"}
    assert len(list(itertools.islice(record.rglob("*.parquet"), 10))) == 10
