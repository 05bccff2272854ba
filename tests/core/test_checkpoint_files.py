"""Declared sizes: against a real model file, and as a person reads them."""

from pathlib import Path

import pytest

from eval_pipelines.checkpoint_files import UnfinishedError, check_whole, format_bytes

pytestmark = pytest.mark.unit

REAL_GGUF = Path(__file__).parents[2] / ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.skipif(not REAL_GGUF.exists(), reason="the demo's model is not unpacked in .cache/models")
def test_a_real_gguf_file_declares_the_size_it_has(tmp_path: Path) -> None:
    assert check_whole(REAL_GGUF) == "gguf"
    with REAL_GGUF.open("rb") as file:
        (tmp_path / "cut.gguf").write_bytes(file.read(4_000_000))
    with pytest.raises(UnfinishedError, match=r"cut\.gguf ends early \(declares 98\.4 MB, holds 4 MB\)"):
        check_whole(tmp_path / "cut.gguf")


def test_sizes_read_like_a_person_would_say_them() -> None:
    assert [format_bytes(n) for n in (0, 999, 1000, 120_000_000, 98_362_432, 999_999_999)] == [
        "0 B", "999 B", "1 kB", "120 MB", "98.4 MB", "1 GB"
    ]  # fmt: skip
