"""Rewriting GGUF files, and telling good ones from bad."""

from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="the extra 'embedded' is not installed")

import gguf
import numpy as np

from eval_pipelines.embedded.errors import GgufError
from eval_pipelines.embedded.gguf_file import F16, F32, read_header
from eval_pipelines.embedded.rewrite import rewrite


def weights(path: Path) -> dict[str, np.ndarray]:
    return {t.name: gguf.dequantize(t.data, t.tensor_type).ravel() for t in gguf.GGUFReader(path).tensors}


def test_matrices_become_f16_and_keep_their_values(tiny_gguf: Path, tmp_path: Path) -> None:
    rewrite(tiny_gguf, tmp_path / "out.gguf")
    before, after = read_header(tiny_gguf), read_header(tmp_path / "out.gguf")
    assert (before.is_exact, after.is_exact) == (False, True)
    assert {tensor.name: tensor.kind for tensor in after.tensors} == {"m.q8": F16, "m.f32": F16, "v": F32}
    assert after.metadata == before.metadata | {"general.file_type": 1}
    for name, values in weights(tiny_gguf).items():
        assert weights(tmp_path / "out.gguf")[name] == pytest.approx(values, abs=2e-3)


def test_noise_is_a_share_of_each_matrix_and_spares_vectors(tiny_gguf: Path, tmp_path: Path) -> None:
    rewrite(tiny_gguf, tmp_path / "out.gguf", noise=0.5, seed=1)
    before, after = weights(tiny_gguf), weights(tmp_path / "out.gguf")
    ratio = (after["m.q8"] - before["m.q8"]).std() / before["m.q8"].std()
    assert 0.4 < ratio < 0.6
    assert (after["v"] == before["v"]).all()


def test_the_same_seed_damages_in_the_same_way(tiny_gguf: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        rewrite(tiny_gguf, tmp_path / name, noise=0.1, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_a_rewrite_that_fails_leaves_nothing(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eval_pipelines.embedded.rewrite._write_tensors", lambda *_, **__: explode())
    with pytest.raises(OSError, match="No space"):
        rewrite(tiny_gguf, tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == [tiny_gguf]


def test_every_truncation_is_noticed(tiny_gguf: Path) -> None:
    whole = tiny_gguf.read_bytes()
    for length in (0, 3, 24, 60, len(whole) // 2, len(whole) - 64):
        tiny_gguf.write_bytes(whole[:length])
        with pytest.raises(GgufError):
            read_header(tiny_gguf)


def test_files_that_are_no_gguf_are_named_so(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    with pytest.raises(GgufError, match="no GGUF file"):
        read_header(path)
    with pytest.raises(GgufError, match="no weights file"):
        read_header(tmp_path / "absent.gguf")


def test_negative_noise_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="cannot be negative"):
        rewrite(tiny_gguf, tmp_path / "out.gguf", noise=-0.1)
