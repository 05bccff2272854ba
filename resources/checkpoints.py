"""Watched folders and what is in them."""

import time

from eval_pipelines.checkpoints import Scan, scan
from eval_pipelines.config import WatchedRoot
from eval_pipelines.models import fingerprint_cache
from eval_pipelines.records import utc_now
from resources.config import ConfiguredResource

# well under the 60 s that Dagster gives a sensor; what was not hashed waits for the next tick
_HASH_FOR_S = 20.0


class CheckpointsResource(ConfiguredResource):
    """Checkpoints that training jobs leave in watched folders."""

    def scan(self, *, hash_for_s: float = _HASH_FOR_S) -> list[tuple[WatchedRoot, Scan]]:
        """One look at every watched folder; they share the time there is for hashing."""
        config = self.config
        cache, ends_at = fingerprint_cache(config), time.monotonic() + hash_for_s
        return [
            (root, scan(root, now=utc_now(), cache=cache, hash_for_s=max(0.0, ends_at - time.monotonic())))
            for root in config.watched
        ]
