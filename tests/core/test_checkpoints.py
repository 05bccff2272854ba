"""Checkpoints on storage: finished, still being written, or none."""

import json
import os
import struct
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eval_pipelines import fingerprints
from eval_pipelines.checkpoints import Scan, fingerprint, scan
from eval_pipelines.config import WatchedRoot

pytestmark = pytest.mark.unit

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def look(
    path: Path, *, family: str | None = "smol", marker: str | None = None, settle_s: float = 0, now: datetime = NOW
) -> Scan:
    root = WatchedRoot(path=path, family=family, deployment="d", suite="s", done_marker=marker, settle_s=settle_s)
    return scan(root, now=now)


def safetensors(n_bytes: int = 64, fill: bytes = b"\1") -> bytes:
    header = json.dumps(
        {"__metadata__": {}, "w": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + fill * n_bytes


def gguf(n_values: int = 64, kind: int = 2, n_bytes: int = 36, fill: bytes = b"\1") -> bytes:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    values = [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
        text(b"general.alignment") + struct.pack("<II", 4, 64),
        text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc"),
        text(b"tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 0.0, 1.0),
    ]
    tensor = text(b"w") + struct.pack("<IQIQ", 1, n_values, kind, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(values)) + b"".join(values) + tensor
    return head + b"\0" * (-len(head) % 64) + fill * n_bytes


def write_huggingface(folder: Path, files: Mapping[str, bytes] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": b"{}", **(files or {"model.safetensors": safetensors()})}.items():
        (folder / name).write_bytes(content)
    return folder


def index_of(*shards: str) -> bytes:
    return json.dumps({"weight_map": {f"w{i}": shard for i, shard in enumerate(shards)}}).encode()


def reasons(found: Scan) -> dict[str, str]:
    return {one.name: one.reason for one in found.waiting} | {one.name: one.reason for one in found.ignored}


def make_old(path: Path, seconds: float = 3600) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def test_finds_folders_of_both_layouts_and_bare_files(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "step-100")
    (tmp_path / "step-200").mkdir()
    (tmp_path / "step-200/weights.gguf").write_bytes(gguf())
    (tmp_path / "step-300.gguf").write_bytes(gguf(fill=b"\2"))
    (tmp_path / "README.md").write_text("not a checkpoint")
    found = look(tmp_path)
    assert [(str(one.model_key), one.layout, one.weights.name) for one in found.finished] == [
        ("smol@step-100", "huggingface", "step-100"),
        ("smol@step-200", "gguf", "step-200"),
        ("smol@step-300", "gguf", "step-300.gguf"),
    ]
    assert found.finished[0].n_bytes == len(safetensors()) + 2
    assert found.finished[0].modified_at.tzinfo is UTC
    assert not reasons(found)


def test_takes_the_family_from_the_folder_above(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "big/step-1")
    write_huggingface(tmp_path / "small/step-1")
    (tmp_path / "small/step-2").mkdir()
    found = look(tmp_path, family=None)
    assert [str(one.model_key) for one in found.finished] == ["big@step-1", "small@step-1"]
    assert list(reasons(found)) == ["small/step-2"]


def test_a_folder_without_weights_yet_waits(tmp_path: Path) -> None:
    (tmp_path / "step-1").mkdir()
    assert reasons(look(tmp_path))["step-1"].startswith("no weights yet")
    (tmp_path / "step-1/config.json").write_text("{}")
    assert reasons(look(tmp_path)) == {"step-1": "config.json is there, but no *.safetensors yet"}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model.safetensors": safetensors()[:-1]}, "model.safetensors ends early (declares "),
        ({"model.safetensors": safetensors()[:20]}, "model.safetensors ends early (within its header, after 20 B)"),
        ({"model.safetensors": b""}, "model.safetensors ends early (within its header, after 0 B)"),
        ({"model.safetensors": safetensors() + b"x"}, "model.safetensors is longer than it declares"),
        ({"model.safetensors": b"<!DOCTYPE html>"}, "model.safetensors does not start with a safetensors header"),
        ({"config.json": b'{"a', "model.safetensors": safetensors()}, "config.json ends early or is no JSON"),
        ({"model.safetensors": safetensors(), ".model.safetensors.Xy1z": b""}, "still being written: holds .model"),
        ({"model.safetensors": safetensors(), "x.json.part": b""}, "still being written: holds x.json.part"),
        (
            {
                "model.safetensors.index.json": index_of(*(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))),
                "model-00001-of-00002.safetensors": safetensors(),
            },
            "model.safetensors.index.json names model-00002-of-00002.safetensors, which is not there",
        ),
        (
            {"model-00001-of-00002.safetensors": safetensors()},
            "model-00001-of-00002.safetensors implies model-00002-of-00002.safetensors, which is not there",
        ),
        (
            {
                "model.safetensors.index.json": index_of("model-00001-of-00001.safetensors"),
                "model-00001-of-00001.safetensors": safetensors()[:-9],
            },
            "model-00001-of-00001.safetensors ends early",
        ),
        (
            {"model.safetensors.index.json": index_of("a")[:9]},
            "model.safetensors.index.json ends early or is no JSON",
        ),
    ],
)
def test_a_half_written_folder_waits_and_says_what_is_missing(
    tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    write_huggingface(tmp_path / "step-1", files)
    found = look(tmp_path)
    assert not found.finished
    assert [one.reason[: len(reason)] for one in found.waiting] == [reason]


@pytest.mark.parametrize("kept", [3, 20, 100, len(gguf()) - 37, len(gguf()) - 1])
def test_a_gguf_file_cut_anywhere_waits(tmp_path: Path, kept: int) -> None:
    (tmp_path / "step-1.gguf").write_bytes(gguf()[:kept])
    assert "ends early" in reasons(look(tmp_path))["step-1.gguf"]


def test_a_gguf_file_of_another_version_or_kind_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    (tmp_path / "b.gguf").write_bytes(b"<html>" * 9)
    assert reasons(look(tmp_path))["a.gguf"].startswith("a.gguf has GGUF version 50331648; 2 and 3 are read")
    assert reasons(look(tmp_path))["b.gguf"] == "b.gguf is no GGUF file"


def test_a_finished_copy_is_found_at_the_next_look(tmp_path: Path) -> None:
    (tmp_path / "step-1.gguf").write_bytes(gguf()[:-5])
    assert not look(tmp_path).finished
    (tmp_path / "step-1.gguf").write_bytes(gguf())
    assert look(tmp_path).finished


def test_temporary_names_count_as_being_written(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "step-1.tmp")
    write_huggingface(tmp_path / ".step-2")
    (tmp_path / "step-3.gguf.part").write_bytes(gguf())
    (tmp_path / ".git").mkdir()
    found = look(tmp_path)
    assert not found.finished
    assert {one.name for one in found.waiting} == {"step-1.tmp", ".step-2", "step-3.gguf.part"}


def test_hidden_files_of_the_hub_do_not_keep_a_checkpoint_waiting(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "step-1")
    (folder / ".gitattributes").write_text("x")
    (folder / ".cache").mkdir()
    assert look(tmp_path).finished


def test_with_a_marker_nothing_counts_before_it_is_there(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "step-1")
    (tmp_path / "step-2.gguf").write_bytes(gguf())
    assert reasons(look(tmp_path, marker="DONE")) == {
        "step-1": "no DONE marker yet",
        "step-2.gguf": "no step-2.gguf.DONE marker beside it yet",
    }
    (tmp_path / "step-1/DONE").touch()
    (tmp_path / "step-2.gguf.DONE").touch()
    assert len(look(tmp_path, marker="DONE").finished) == 2


def test_without_a_marker_the_newest_file_must_have_settled(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "step-1")
    for file in folder.iterdir():
        make_old(file)
    (folder / "optimizer.pt").write_bytes(b"x")
    now = datetime.fromtimestamp((folder / "optimizer.pt").stat().st_mtime, UTC) + timedelta(seconds=3)
    assert reasons(look(tmp_path, settle_s=30, now=now)) == {
        "step-1": "still being written: newest file is 3 s old, settle_s is 30"
    }
    assert look(tmp_path, settle_s=30, now=now + timedelta(seconds=30)).finished


def test_upper_case_becomes_lower_case_and_is_said(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "Step-100")
    (one,) = look(tmp_path).finished
    assert (str(one.model_key), one.weights.name) == ("smol@step-100", "Step-100")
    assert one.note == "'Step-100' is called smol@step-100 here: model keys are lower case"


def test_a_name_that_makes_no_key_is_ignored_with_the_name_to_give_it(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "step 100")
    assert reasons(look(tmp_path)) == {"step 100": "'step 100' is no usable revision: rename it to 'step-100'"}


def test_two_names_for_one_key_are_both_refused(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "step-1")
    (tmp_path / "Step-1.gguf").write_bytes(gguf())
    found = look(tmp_path)
    assert not found.finished
    assert found.ignored[1].reason == "would be smol@step-1, and so would 'Step-1.gguf': rename one of them"


def test_what_will_never_be_a_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "bin", {"pytorch_model.bin": b"x"})
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_config.json").write_text("{}")
    (tmp_path / "two").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "two" / name).write_bytes(gguf())
    assert {one.name: one.reason.split(":")[0] for one in look(tmp_path).ignored} == {
        "bin": "holds pytorch_model.bin only",
        "lora": "is an adapter, not a whole model",
        "two": "holds 2 .gguf files",
    }


def test_a_linked_folder_is_followed_to_the_one_checkpoint_it_names(tmp_path: Path) -> None:
    target = write_huggingface(tmp_path / "store/step-1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/latest").symlink_to(target)
    (tmp_path / "root/gone").symlink_to(tmp_path / "nowhere")
    found = look(tmp_path / "root")
    assert [(str(one.model_key), one.weights) for one in found.finished] == [("smol@latest", target)]
    assert reasons(found) == {"gone": "is a link to something that is not there"}


def test_files_that_cannot_be_read_wait_and_harm_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_huggingface(tmp_path / "good")
    denied = write_huggingface(tmp_path / "denied") / "config.json"
    os.mkfifo(write_huggingface(tmp_path / "pipe", {"a.safetensors": safetensors()}) / "model.safetensors")
    (write_huggingface(tmp_path / "broken") / "extra.safetensors").symlink_to("nowhere")
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        if path == denied:
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    found = look(tmp_path)
    assert [one.model_key.revision for one in found.finished] == ["good"]
    assert reasons(found) == {
        "denied": "config.json cannot be read: permission denied",
        "pipe": "model.safetensors is no regular file",
        "broken": "extra.safetensors is not there",
    }


def test_a_watched_folder_that_is_not_there_is_a_reason_and_no_error(tmp_path: Path) -> None:
    (one,) = look(tmp_path / "nowhere").waiting
    assert one.reason == "nowhere is not there"


def test_a_checkpoint_that_vanishes_while_it_is_hashed_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_huggingface(tmp_path / "step-1")
    counted = fingerprints.counted_files

    def counted_then_gone(path: Path) -> list[Path]:
        files = counted(path)
        (folder / "model.safetensors").unlink()
        return files

    monkeypatch.setattr(fingerprints, "counted_files", counted_then_gone)
    assert reasons(look(tmp_path)) == {"step-1": "model.safetensors went away while it was read"}


def test_hashing_stops_when_its_time_is_up_and_goes_on_at_the_next_look(tmp_path: Path) -> None:
    root = WatchedRoot(path=tmp_path / "root", family="smol", deployment="d", suite="s")
    folder = write_huggingface(tmp_path / "root/step-1")
    first = scan(root, now=NOW, cache=tmp_path / "c.json", hash_for_s=-1)
    assert first.waiting[0].reason == "0 of 2 files hashed so far; going on at the next look"
    for file in folder.iterdir():
        make_old(file)
    fingerprint(folder, cache=tmp_path / "c.json")
    assert scan(root, now=NOW, cache=tmp_path / "c.json", hash_for_s=-1).finished, "what is remembered costs no time"
