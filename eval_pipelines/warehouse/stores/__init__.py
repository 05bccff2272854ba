"""Where a team of machines keeps its landing together: one file for each kind of store, found by its name.

A store holds landed files under their names below `landing/`, such as `metrics/model=…/benchmark=…/….parquet`. Each
file is there whole or not at all, and never changes: that is all the landing asks of it.

A kind offers `Spec`, what `store` in evals.yaml may say beside `kind`, and `open_store(spec, secrets)`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from eval_pipelines import plugins

KINDS = "warehouse.stores"


class Store(Protocol):
    """Landed files, shared by machines. Every method raises WarehouseError, in words, where the store does not answer."""

    def names(self, folder: str) -> list[str]:
        """Names of the files at or below `folder` (`metrics`, `responses/model=smol@main`), in no order."""

    def put(self, name: str, path: Path) -> bool:
        """Keep a file, whole or not at all; False, and nothing is changed, if there is one of that name."""

    def get(self, name: str, path: Path) -> None:
        """Write the file of that name to `path`, which nobody reads yet."""


def open_store(kind: str, spec: Any, secrets: Mapping[str, str]) -> Store:
    """The store that evals.yaml names; `secrets` holds the variables that it names.

    Raises:
        ConfigError: a secret's variable is not set, or the library of that kind is not installed.
        WarehouseError: the store does not answer.
    """
    return cast(Store, plugins.load(KINDS, kind, kind="store").open_store(spec, secrets))
