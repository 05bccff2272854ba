"""Our own errors end a step without a traceback: the message already says what to do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dagster as dg

from eval_pipelines.errors import EvalPipelinesError


@contextmanager
def told_plainly(metadata: Mapping[str, dg.MetadataValue] | None = None) -> Iterator[None]:
    """Turn an error the reader can act on into a Dagster failure that shows its message first."""
    try:
        yield
    except EvalPipelinesError as error:
        told = {"error": dg.MetadataValue.text(type(error).__name__), **(metadata or {})}
        raise dg.Failure(description=str(error), metadata=told, allow_retries=False) from None
