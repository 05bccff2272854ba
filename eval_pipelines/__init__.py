"""eval-pipelines: LLM evaluations as Dagster assets.

The core (this package) knows models, benchmarks, requests and scores; `resources`, `assets` and `sensors`, which
stand beside it, bind it to Dagster; `dbt_like_sql` holds the tables.
"""

import importlib.util
from pathlib import Path


def _refuse_strangers() -> None:
    """A distribution with a top-level `resources` in site-packages would win over ours, with baffling errors."""
    home = Path(__file__).resolve().parent.parent
    for name in ("resources", "assets", "sensors", "dbt_like_sql"):
        spec = importlib.util.find_spec(name)
        where = next(iter(spec.submodule_search_locations or []), None) if spec else None
        if where is not None and Path(where).resolve().parent != home:
            raise ImportError(
                f"the package {name!r} comes from {where}, not from {home}: another installed distribution has a "
                f"top-level package of that name. Uninstall it here, or run from {home}."
            )


_refuse_strangers()
