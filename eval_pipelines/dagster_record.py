"""Dagster's own record, where it is SQLite: a run does not wait for the disk at each of its events.

Dagster opens a connection for every event and closes it again. The last one to close writes the whole log back into the
database and syncs, and each commit syncs too: some 700 syncs for one published evaluation, most of its time on a slow
disk. Here one connection more stays open, so that none is the last, and a commit waits for the operating system only.
After a loss of power the last events of a run may be missing in Dagster's UI; nothing is torn, and what was asked and
scored is not in that record. Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous
"""

import contextlib
import sqlite3
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

_MOST_OPEN = 8  # each run has a database of its own, and a code server sees many
_open: "OrderedDict[str, sqlite3.Connection]" = OrderedDict()
_homes: set[Path] = set()
_lock = threading.Lock()


def spare_the_disk(home: str | Path) -> None:
    """From now on, in this process, for the SQLite databases below Dagster's home. Doing it twice does nothing more."""
    # Dagster's storage imports it too, but not everybody who imports this module opens a storage
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    _homes.add(Path(home).resolve())
    if not event.contains(Engine, "connect", _connected):
        event.listen(Engine, "connect", _connected)


def _connected(connection: Any, _record: object) -> None:
    if not isinstance(connection, sqlite3.Connection):
        return
    [(_, _, name), *_] = connection.execute("PRAGMA database_list").fetchall()
    if not any(Path(name).is_relative_to(home) for home in _homes):
        return
    connection.execute("PRAGMA synchronous=NORMAL")
    with _lock, contextlib.suppress(sqlite3.Error):
        _keep(name)


def _keep(name: str) -> None:
    if name in _open:
        _open.move_to_end(name)
        return
    kept = sqlite3.connect(name, check_same_thread=False)
    # only one that has read the log holds it, and a new database has none yet
    if kept.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        kept.close()
        return
    kept.execute("SELECT count(*) FROM sqlite_master").fetchone()
    _open[name] = kept
    while len(_open) > _MOST_OPEN:
        _open.popitem(last=False)[1].close()
