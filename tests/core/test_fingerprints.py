"""Fingerprints: same bytes, same fingerprint; overwritten bytes, a new one."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.fingerprints import CheckpointVanished, fingerprint, hosted_fingerprint

pytestmark = pytest.mark.unit


def model(folder: Path) -> Path:
    """A folder with one weight file and a configuration. Nothing here looks into them."""
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def make_old(path: Path, seconds: float = 3600) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def test_same_bytes_have_the_same_fingerprint_wherever_they_are(tmp_path: Path) -> None:
    one, two = model(tmp_path / "a"), model(tmp_path / "b")
    assert fingerprint(one, cache=None) == fingerprint(two, cache=None)
    (tmp_path / "x.gguf").write_bytes(b"weights")
    (tmp_path / "y.gguf").write_bytes(b"weights")
    assert fingerprint(tmp_path / "x.gguf", cache=None) == fingerprint(tmp_path / "y.gguf", cache=None)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_it_changes_with_whatever_changes_answers(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "a")
    before = fingerprint(folder, cache=None)
    (folder / name).write_bytes(b"other")
    assert fingerprint(folder, cache=None) != before


@pytest.mark.parametrize(
    "name", ["DONE", "README.md", "optimizer.pt", "trainer_state.json", "eval_results.json", ".x.json"]
)
def test_it_does_not_change_with_what_does_not(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "a")
    before = fingerprint(folder, cache=None)
    (folder / name).write_bytes(b"other")
    assert fingerprint(folder, cache=None) == before


def test_an_unchanged_file_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = model(tmp_path / "a"), tmp_path / "cache/hashes.json"
    for file in folder.iterdir():
        make_old(file)
    first = fingerprint(folder, cache=cache)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert fingerprint(folder, cache=cache) == first
    assert [file.name for file in cache.parent.iterdir()] == ["hashes.json"], "nothing is left aside"


def test_the_files_of_thousands_of_checkpoints_are_all_remembered(tmp_path: Path) -> None:
    folder, cache = model(tmp_path / "a"), tmp_path / "hashes.json"
    for n in range(5_000):
        (folder / f"{n}.py").touch()
    for file in folder.iterdir():
        make_old(file)
    first = fingerprint(folder, cache=cache)
    assert fingerprint(folder, cache=cache, deadline=time.monotonic() - 1) == first, "there was no time to hash"


def test_what_is_remembered_is_read_once_for_all_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders, cache = [model(tmp_path / str(n)) for n in range(3)], tmp_path / "hashes.json"
    for folder in folders:
        for file in folder.iterdir():
            make_old(file)
        fingerprint(folder, cache=cache)
    read: list[bytes] = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: loads(read.append(text) or text))
    for folder in folders * 2:
        fingerprint(folder, cache=cache)
    assert len(read) == 1


def test_bytes_overwritten_with_the_same_size_are_noticed(tmp_path: Path) -> None:
    file, cache = tmp_path / "a.gguf", tmp_path / "hashes.json"
    file.write_bytes(b"weights 1")
    make_old(file, 3600)
    first = fingerprint(file, cache=cache)
    file.write_bytes(b"weights 2")
    make_old(file, 1800)
    assert fingerprint(file, cache=cache) != first


def test_a_file_just_written_is_not_remembered(tmp_path: Path) -> None:
    file, cache = tmp_path / "a.gguf", tmp_path / "hashes.json"
    file.write_bytes(b"weights")
    fingerprint(file, cache=cache)
    assert not cache.exists(), "its time could stay the same through another write"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b"\xff", b'{"a": ["x", 1, 1, "y"]}'])
def test_a_corrupt_cache_costs_only_time(tmp_path: Path, content: bytes) -> None:
    file, cache = tmp_path / "a.gguf", tmp_path / "hashes.json"
    file.write_bytes(b"weights")
    make_old(file)
    cache.write_bytes(content)
    assert fingerprint(file, cache=cache) == fingerprint(file, cache=None)
    assert str(file) in json.loads(cache.read_text())


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"weights")
    make_old(file)
    assert fingerprint(file, cache=file / "below-a-file.json") == fingerprint(file, cache=None)


def test_a_file_that_changes_while_it_is_hashed_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"weights")
    file_digest = hashlib.file_digest

    def digest_and_write(file: Any, kind: Any) -> object:
        make_old(path, 99)
        return file_digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", digest_and_write)
    with pytest.raises(CheckpointVanished, match=r"a\.gguf changed while it was read"):
        fingerprint(path, cache=None)


def test_of_an_unknown_layout_every_file_counts(tmp_path: Path) -> None:
    (tmp_path / "engine/sub").mkdir(parents=True)
    (tmp_path / "engine/sub/rank0.engine").write_bytes(b"1")
    before = fingerprint(tmp_path / "engine", cache=None)
    (tmp_path / "engine/sub/rank0.engine").write_bytes(b"2")
    assert fingerprint(tmp_path / "engine", cache=None) != before


def test_what_is_not_there_has_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointVanished, match="nowhere went away"):
        fingerprint(tmp_path / "nowhere", cache=None)
    with pytest.raises(CheckpointVanished, match="holds no files"):
        fingerprint(tmp_path, cache=None)


def test_a_hosted_model_is_known_by_address_name_and_revision() -> None:
    one = hosted_fingerprint("https://api.example.com/v1", "gpt-x", "2024-01-01")
    assert one == hosted_fingerprint("https://user:key@API.example.com/v1/", "gpt-x", "2024-01-01")
    assert one != hosted_fingerprint("https://api.example.com/v1", "gpt-x", "2024-02-01")
    assert one != hosted_fingerprint("https://api.example.com/v1", "gpt-y", "2024-01-01")
