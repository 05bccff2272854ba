"""An operator's folder with a watched root, checkpoints dropped into it, and the sensors as Dagster would call them."""

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from eval_pipelines.config import load_config
from eval_pipelines.definitions import build, resources_of
from sensors.checkpoints import checkpoint_sensor


def safetensors(fill: bytes = b"\1", n_bytes: int = 64) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + fill * n_bytes


def gguf(fill: bytes = b"\1") -> bytes:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text(b"general.alignment") + struct.pack("<II", 4, 64)
    head += text(b"w") + struct.pack("<IQIQ", 1, 64, 2, 0)
    return head + b"\0" * (-len(head) % 64) + fill * 36


def drop(folder: Path, fill: bytes = b"\1") -> Path:
    """A finished checkpoint in the Hugging Face layout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors(fill))
    return folder


def make_old(folder: Path) -> None:
    """An hour old: hashes of files that were just written are not remembered."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)


class Watched:
    """An operator's folder with one watched root, and the sensors as Dagster would call them."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder, self.root, self.instance = folder, folder / "runs", instance
        self.root.mkdir()
        self.content: dict[str, Any] = {
            "deployments": {"one": {"backend": "hosted", "base_url": "http://127.0.0.1:9/v1"}, "own": {}},
            "models": {},
            "watched": [{"path": "runs", "family": "smol", "deployment": "own", "suite": "short"}],
            "benchmarks": {name: {"task": name} for name in ("gsm8k", "hellaswag", "mmlu")},
            "suites": {"short": ["gsm8k", "hellaswag"]},
        }
        self.content["deployments"]["own"] = {"backend": "command", "argv": ["serve", "{weights}", "{port}"]}
        self.cursor: str | None = None
        self.write()

    def write(self) -> None:
        (self.folder / "evals.yaml").write_text(yaml.safe_dump(self.content, sort_keys=False))

    @property
    def config(self):
        return load_config(self.folder / "evals.yaml")

    def tick(self, sensor: dg.SensorDefinition = checkpoint_sensor) -> dg.SensorResult | dg.SkipReason | dg.RunRequest:
        """One evaluation with the cursor of the last; partitions are added as the daemon does."""
        everything = resources_of(self.folder / "evals.yaml")
        needed = {name: everything[name] for name in sensor.required_resource_keys}
        with dg.build_sensor_context(
            self.instance, cursor=self.cursor, resources=needed, definitions=build(self.folder / "evals.yaml")
        ) as context:
            told = sensor(context)
            self.cursor = (told.cursor if isinstance(told, dg.SensorResult) else None) or context.cursor
        for request in getattr(told, "dynamic_partitions_requests", None) or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        return told

    def skipped(self, sensor: dg.SensorDefinition = checkpoint_sensor) -> str:
        told = self.tick(sensor)
        assert isinstance(told, dg.SkipReason), f"requested {told}"
        return told.skip_message or ""

    def requested(self) -> list[dg.RunRequest]:
        told = self.tick()
        assert isinstance(told, dg.SensorResult), f"skipped: {told}"
        return list(told.run_requests or [])
