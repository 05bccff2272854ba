"""Model keys that are safe as partitions and paths; digests that depend on content alone."""

import random

import pytest

from eval_pipelines.errors import ModelKeyError
from eval_pipelines.keys import ModelKey, canonical, digest, slug

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["smollm2-135m@step-01200", "a@b", "x_1.5@2026.01", f"{'a' * 100}@{'b' * 100}"])
def test_a_key_reads_back_as_it_was_written(text) -> None:
    assert str(ModelKey.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "a", "@", "a@", "@b", "A@b", "a@b@c", "a/b@c", "a@../b", "a..b@c", ".a@b", "-a@b", "a b@c", "a@b\n", "ä@b", "a" * 101 + "@b"],
)  # fmt: skip
def test_what_dagster_would_drop_or_is_no_safe_path_is_refused(text) -> None:
    with pytest.raises(ModelKeyError, match="family@revision"):
        ModelKey.parse(text)


def test_a_name_without_a_revision_is_answered_with_a_key_that_works() -> None:
    with pytest.raises(ModelKeyError, match="meta-llama-llama-3@main"):
        ModelKey.parse("meta-llama/Llama-3")


@pytest.mark.parametrize(
    ("revision", "step"),
    [("step-01200", 1200), ("checkpoint-500", 500), ("global_step7", 7), ("iter_0005000", 5000), ("epoch-1-step-20", 20),
     ("step-0", 0), ("main", None), ("footstep-3", None), ("2026-01-01", None)],
)  # fmt: skip
def test_the_step_is_read_from_the_revision(revision, step) -> None:
    assert ModelKey("m", revision).step == step


def test_a_slug_of_anything_is_part_of_a_key() -> None:
    draw = random.Random(1)
    alphabet = "aZ09._-/ @:äß日İ\n"
    for _ in range(2000):
        text = "".join(draw.choices(alphabet, k=draw.randrange(0, 130)))
        ModelKey(slug(text), "main")


def test_a_slug_of_a_usable_part_is_itself() -> None:
    assert slug("smollm2-135m_x.5") == "smollm2-135m_x.5"


def test_equal_values_have_equal_digests_whatever_their_order() -> None:
    assert digest({"a": 1, "b": [2, None]}) == digest({"b": [2, None], "a": 1})


@pytest.mark.parametrize("other", [{"a": 2}, {"a": "1"}, {"a": 1.5}, {"a": True}, {"b": 1}, [{"a": 1}]])
def test_different_values_have_different_digests(other) -> None:
    assert digest({"a": 1}) != digest(other)


def test_a_digest_is_the_same_in_every_release() -> None:
    # answers on disk are addressed by it
    assert digest(["chat", "é"], n_bytes=6) == "f5f61a806a25"


def test_canonical_text_keeps_characters() -> None:
    assert canonical({"b": "é", "a": 1}) == '{"a":1,"b":"é"}'
