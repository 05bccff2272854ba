"""From a model key to what it points to: weights on disk, or a name at someone else's address."""

from dataclasses import dataclass
from pathlib import Path

from eval_pipelines.checkpoints import Scan, fingerprint, hosted_fingerprint, scan
from eval_pipelines.config import Config, ModelEntry
from eval_pipelines.errors import ConfigError, UnknownNameError
from eval_pipelines.keys import ModelKey
from eval_pipelines.records import utc_now


@dataclass(frozen=True, slots=True)
class Model:
    """What is evaluated. Never the running server.

    Attributes:
        weights: File or folder; None for a hosted model.
        fingerprint: Content hash of the weights; for a hosted model its revision, URL and served name stand in.
        deployment: Name of the deployment that serves it.
        served_name: Name a hosted endpoint knows it by; None means the model key.
    """

    key: ModelKey
    deployment: str
    fingerprint: str
    weights: Path | None = None
    served_name: str | None = None


def resolve(config: Config, key: ModelKey) -> Model:
    """The model a key points to now, with the fingerprint of the bytes that are there now.

    Raises:
        UnknownNameError: neither declared under `models` nor a finished checkpoint of a watched folder.
        ConfigError: the weights are not there.
    """
    entry = config.models.get(str(key))
    if entry is not None:
        return _declared(config, key, entry)
    known, waiting = list(config.models), []
    for root in config.watched:
        found = scan(root, now=utc_now(), cache=fingerprint_cache(config))
        for checkpoint in found.finished:
            if checkpoint.model_key == key:
                return Model(key, root.deployment, checkpoint.fingerprint, checkpoint.weights)
        known += [str(checkpoint.model_key) for checkpoint in found.finished]
        waiting += _waiting_for(key, found)
    if waiting:
        raise ConfigError(f"{key} is not finished yet: {'; '.join(waiting)}")
    raise UnknownNameError(
        "model",
        str(key),
        known=known,
        add=f"declare it under `models` in {config.path}, or put a checkpoint in a watched folder",
    )


def fingerprint_cache(config: Config) -> Path:
    """Where hashes of unchanged weight files are kept."""
    return config.data_root / "cache" / "fingerprints.json"


def _waiting_for(key: ModelKey, found: Scan) -> list[str]:
    return [f"{one.name}: {one.reason}" for one in found.waiting if key.revision in one.name.lower()]


def _declared(config: Config, key: ModelKey, entry: ModelEntry) -> Model:
    if entry.weights is None:
        url = getattr(config.deployment(entry.deployment).spec, "base_url", "")
        mark = hosted_fingerprint(url, entry.served_name or str(key), key.revision)
        return Model(key, entry.deployment, mark, None, entry.served_name)
    if not entry.weights.exists():
        raise ConfigError(f"models.{key}.weights in {config.path}: there is nothing at {entry.weights}")
    return Model(key, entry.deployment, fingerprint(entry.weights, cache=fingerprint_cache(config)), entry.weights)
