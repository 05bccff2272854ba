"""Tables that fit, and text that does nothing."""

import json
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_pipelines.formats import Column, one_line, printable, to_csv, to_json, to_markdown, to_table

pytestmark = pytest.mark.unit

COLUMNS = [
    Column("name", lambda row: row["name"]),
    Column("note", lambda row: row["note"], rank=1),
    Column("n", lambda row: row["n"], is_number=True),
]


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "name": st.text("ab@- \u6f22", max_size=90),
                "note": st.text("cd ", max_size=60),
                "n": st.sampled_from("12"),
            }
        ),
        min_size=1,
        max_size=4,
    ),
    width=st.integers(min_value=40, max_value=120),
)
def test_no_line_is_wider_than_the_terminal_and_no_text_is_lost(rows, width) -> None:
    lines = to_table(COLUMNS, rows, width).splitlines()
    assert max(len(line) + line.count("\u6f22") for line in lines) <= width
    shown = Counter("".join(lines[2:]))
    for one in "ab@-\u6f22":
        assert shown[one] == sum(row["name"].count(one) for row in rows)


def test_a_narrow_terminal_loses_the_dispensable_column_first() -> None:
    rows = [{"name": "n" * 30, "note": "1234567890" * 3, "n": "7"}]
    assert "note" in to_table(COLUMNS, rows, 80).splitlines()[0]
    assert "note" not in to_table(COLUMNS, rows, 34).splitlines()[0]


def test_wide_characters_keep_columns_aligned() -> None:
    lines = to_table(COLUMNS, [{"name": "漢字", "note": "", "n": "1"}, {"name": "abcd", "note": "", "n": "1"}], None)
    assert lines.splitlines()[2:] == ["漢字        1", "abcd        1"]


def test_numbers_that_json_has_no_word_for_are_null() -> None:
    row = {"a": math.inf, "b": [1.5, -math.inf], "c": {"d": math.nan}, "e": "NaN"}
    assert json.loads(to_json([row]), parse_constant=pytest.fail) == [
        {"a": None, "b": [1.5, None], "c": {"d": None}, "e": "NaN"}
    ]
    assert to_csv([{"b": [math.nan]}]) == "b\n[null]\n"


def test_nothing_that_a_model_wrote_is_markup_or_moves_the_cursor() -> None:
    hostile = "a|b\n`x` <script> \x1b[2J [l](u) \u202e"
    assert printable(hostile) == "a|b\n`x` <script> \\x1b[2J [l](u) \\u202e"
    row = {"name": hostile, "note": "", "n": "1"}
    line = to_markdown(COLUMNS, [row]).splitlines()[2]
    assert line == r"| a\|b \`x\` &lt;script&gt; \\x1b\[2J \[l\](u) \\u202e |  | 1 |"
    assert one_line("a\n b", 3) == "a b"
    assert one_line("abcd", 3) == "ab…"
