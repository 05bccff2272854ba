"""Which landed files may be new, without a look at all of them: notes that writers leave.

    landing/.noticed/<random>     JSON: the folder something is landing in, and what the file is called until it has its name

A note is written when its file is whole but not yet named, and kept until a publication that began after the naming is
in place. So no landed file is missed, whoever is killed when: at worst a folder is looked at in vain. Files that came
another way (copied there, or landed by an older version) have no note: they are found by walking.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval_pipelines.warehouse.files import make_folder, sync_folder

FOLDER: Final = ".noticed"
_STALE_S: Final = 24 * 3600.0


@dataclass(frozen=True)
class Notice:
    """One note: `folder` is relative to the landing; finished: its file has its name by now, or never will."""

    path: Path
    folder: str
    is_finished: bool


def announced_by(landing: Path) -> Callable[[Path], None]:
    """What a writer calls with the path of a whole file that has no name yet. Raises OSError."""

    def announce(aside: Path) -> None:
        folder = landing / FOLDER
        make_folder(folder)
        with open(folder / uuid.uuid4().hex, "x", encoding="utf-8") as note:
            json.dump({"folder": str(aside.parent.relative_to(landing)), "aside": aside.name}, note)
            note.flush()
            os.fsync(note.fileno())
        sync_folder(folder)

    return announce


def notices(landing: Path) -> list[Notice]:
    """Every note; look into their folders only after this. Removes what killed writers left more than a day ago."""
    try:
        paths = [Path(entry.path) for entry in os.scandir(landing / FOLDER)]
    except FileNotFoundError:
        return []
    return [notice for path in paths if (notice := _read(landing, path))]


def forget(done: Iterable[Notice]) -> None:
    """Remove the notes of finished landings, once a publication holds them."""
    for notice in done:
        if notice.is_finished:
            notice.path.unlink(missing_ok=True)


def _read(landing: Path, path: Path) -> Notice | None:
    try:
        is_old = path.stat().st_mtime < time.time() - _STALE_S
        note = json.loads(path.read_text(encoding="utf-8"))
        folder, aside = str(note["folder"]), landing / str(note["folder"]) / str(note["aside"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        # killed while writing it: its file was never named
        return Notice(path, "", is_old) if is_old else None
    if is_old:
        aside.unlink(missing_ok=True)
    return Notice(path, folder, not aside.exists())
