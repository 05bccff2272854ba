"""From a model key to what it points to: weights on disk, or a name at someone else's address."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval_pipelines.checkpoint_files import is_temporary
from eval_pipelines.checkpoints import Scan, fingerprint, hosted_fingerprint, scan
from eval_pipelines.config import Config, Deployment, InterceptorEntry, ModelEntry, WatchedRoot
from eval_pipelines.config.deployments import asked_for
from eval_pipelines.errors import ConfigError, ModelKeyError, UnknownNameError
from eval_pipelines.keys import ModelKey, digest
from eval_pipelines.layouts import conversion, in_words, layout
from eval_pipelines.records import utc_now


@dataclass(frozen=True, slots=True)
class Model:
    """What is evaluated. Never the running server.

    Attributes:
        weights: File or folder; None for a hosted model.
        fingerprint: Content hash of the weights; for a hosted model stand in its revision, URL, served name, and which
            parameters are kept from it.
        deployment: Name of the deployment that serves it.
        served_name: Name a hosted endpoint knows it by; None means the model key.
        interceptors: What stands around its requests; no part of which model it is.
    """

    key: ModelKey
    deployment: str
    fingerprint: str
    weights: Path | None = None
    served_name: str | None = None
    interceptors: tuple[InterceptorEntry, ...] = field(default=(), compare=False)


def resolve(config: Config, key: ModelKey) -> Model:
    """The model a key points to now, with the fingerprint of the bytes that are there now.

    Raises:
        UnknownNameError: neither declared under `models` nor a finished checkpoint of a watched folder.
        ConfigError: the weights are not there, or two things have this key.
    """
    # names first: nobody's weights but this model's are worth hashing now
    looked = [_look(config, root, hash_for_s=0.0) for root in config.watched]
    places = claims(config, looked).get(str(key), [])
    if len(places) > 1:
        raise ConfigError(clash_in_words(str(key), places))
    entry = config.models.get(str(key))
    if entry is not None:
        return _declared(config, key, entry)
    problems: list[str] = []
    for root, names in looked:
        found = names
        if any(key_of(root, one.name) == str(key) for one in names.waiting):
            found = _look(config, root)[1]
        for checkpoint in found.finished:
            if checkpoint.model_key == key:
                deployment = route(config, key, root.deployment, checkpoint.weights)
                return Model(
                    key, deployment, checkpoint.fingerprint, checkpoint.weights, interceptors=root.interceptors
                )
        problems += _problems_of(root, key, found)
    if problems:
        raise ConfigError(f"{key} cannot be evaluated yet: {'; '.join(problems)}")
    raise UnknownNameError(
        "model",
        str(key),
        known=sorted(claims(config, looked)),
        add=f"declare it under `models` in {config.path}, or put a checkpoint in a watched folder",
    )


def interceptors_of(config: Config, key: ModelKey) -> tuple[InterceptorEntry, ...]:
    """The interceptors that evals.yaml gives a model, also one whose checkpoint is gone by now.

    Raises:
        ConfigError: several watched folders may have had it, and they list different ones.
    """
    entry = config.models.get(str(key))
    if entry is not None:
        return entry.interceptors
    roots = [root for root in config.watched if root.family in (None, key.family)]
    if all(root.interceptors == roots[0].interceptors for root in roots):
        return roots[0].interceptors if roots else ()
    # names only: grading needs no weights
    looked = [(root, _look(config, root, hash_for_s=0.0)[1]) for root in roots]
    for root, found in looked:
        keys = {key_of(root, one.name) for one in found.waiting} | {str(one.model_key) for one in found.finished}
        if str(key) in keys:
            return root.interceptors
    places = " and ".join(str(root.path) for root in roots)
    raise ConfigError(
        f"{key}: {places} list different `interceptors`, and its checkpoint lies in none of them any more. "
        f"Declare it under `models` in {config.path} with the interceptors it was asked with."
    )


def claims(config: Config, looked: Sequence[tuple[WatchedRoot, Scan]]) -> dict[str, list[str]]:
    """Model key → the places that have it: entries of `models`, and watched checkpoints, finished or not.

    More than one place for a key means that nobody can say which weights a number would be of.
    """
    found = {key: [f"`models` in {config.path}"] for key in config.models}
    for root, scan_ in looked:
        named = {one.name: key_of(root, one.name) for one in scan_.waiting}
        at = {str(one.model_key): str(one.weights) for one in scan_.finished}
        at |= {key: str(root.path / name) for name, key in named.items() if key}
        for key, place in at.items():
            found.setdefault(key, []).append(place)
    return found


def clash_in_words(key: str, places: Sequence[str]) -> str:
    """What to tell the operator of a key that several places have."""
    return f"{key} is the key of {' and of '.join(places)}: rename one of them, or take one out of evals.yaml"


def _look(config: Config, root: WatchedRoot, *, hash_for_s: float | None = None) -> tuple[WatchedRoot, Scan]:
    return root, scan(root, now=utc_now(), cache=fingerprint_cache(config), hash_for_s=hash_for_s)


def key_of(root: WatchedRoot, name: str) -> str | None:
    """The model key that an entry of a watched folder would have, by its name; None for a name that gives none."""
    if is_temporary(Path(name).name) or Path(name).is_absolute():  # the folder itself, where it cannot be read
        return None
    family, _, revision = name.removesuffix(".gguf").lower().rpartition("/")
    try:
        return str(ModelKey(root.family or family, revision))
    except ModelKeyError:
        return None


def fingerprint_cache(config: Config) -> Path:
    """Where hashes of unchanged weight files are kept."""
    return config.data_root / "cache" / "fingerprints.json"


def _problems_of(root: WatchedRoot, key: ModelKey, found: Scan) -> list[str]:
    """What a watched folder says of entries that have this key, or whose name holds its revision (`step-300.tmp`)."""
    ignored = [one for one in found.ignored if key_of(root, one.name) == str(key)]
    revision = re.compile(rf"(?<![a-z0-9]){re.escape(key.revision)}(?![a-z0-9_-])")
    waiting = [
        one
        for one in found.waiting
        if revision.search(Path(one.name).name.lower())
        and (root.family or Path(one.name).parent.name.lower()) == key.family
    ]
    return [f"{one.name}: {one.reason}" for one in ignored] + [f"{one.name}: {one.reason}" for one in waiting]


def route(config: Config, key: ModelKey, names: Sequence[str], weights: Path | None) -> str:
    """The deployment that serves these weights: the only one, or the first whose backend reads their layout.

    Args:
        weights: None for a model that its deployment brings along, or that someone else serves.

    Raises:
        ConfigError: none of several can; says what lies there, what each reads, and how to convert it.
    """
    deployments = [config.deployment(name) for name in names]
    if len(names) == 1:
        return names[0]
    found = layout(weights) if weights is not None else None
    for one in deployments:
        if (found in one.reads) if found else not one.needs_weights:
            return one.name
    can = "; ".join(f"{one.name!r} ({one.backend}) reads {', '.join(one.reads) or 'no files'}" for one in deployments)
    if weights is None:
        raise ConfigError(f"{key}: it names no `weights`, and each of its deployments needs some: {can}")
    line = conversion(weights, [name for one in deployments for name in one.reads])
    advice = f"To convert it: {line}. Or add" if line else "Add"
    raise ConfigError(f"{key}: {weights} {in_words(weights)}, and {can}. {advice} a deployment that reads it.")


def _where(deployment: Deployment) -> str:
    """What stands in for the bytes of weights that are not named: the address, or the server that brings them."""
    if not deployment.is_started_here:
        return str(getattr(deployment.spec, "base_url", ""))
    image = deployment.container.image if deployment.container else None
    return digest([deployment.backend, deployment.options, image], n_bytes=8)


def _left_out(deployment: Deployment) -> list[str]:
    """Parameters that `renames` keeps from being sent: without them the same request asks for something else."""
    renames: Mapping[str, str | None] = getattr(deployment.spec, "renames", {})
    return [name for name, there in renames.items() if there is None]


def _declared(config: Config, key: ModelKey, entry: ModelEntry) -> Model:
    if entry.weights is not None and not entry.weights.exists():
        raise ConfigError(f"models.{key}.weights in {config.path}: there is nothing at {entry.weights}")
    deployment = route(config, key, entry.deployment, entry.weights)
    if entry.weights is None:
        one = config.deployment(deployment)
        name = asked_for(one, entry.served_name, key)
        mark = hosted_fingerprint(_where(one), name, key.revision, left_out=_left_out(one))
        return Model(key, deployment, mark, None, entry.served_name, entry.interceptors)
    mark = fingerprint(entry.weights, cache=fingerprint_cache(config))
    return Model(key, deployment, mark, entry.weights, interceptors=entry.interceptors)
