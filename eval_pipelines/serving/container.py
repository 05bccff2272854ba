"""A server in a container: the line that runs it, and the lines that end it.

Killing the client (`docker run`) leaves the container running, so whoever keeps the server must run `stop`, wait,
then `kill`. The client lives as long as the container, prints what it prints, and ends with its status.

Source  `docker run --help` 28, `podman run --help` 4 and 5
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval_pipelines.container_spec import Container, bind_value, mount_value
from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.backends import ServerCommand

# Inside, the devices are numbered anew; and an empty search path, meant for this machine, would hide the image's own.
_NOT_INSIDE = {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"}


@dataclass(frozen=True, slots=True)
class Contained:
    """A server as a container.

    Attributes:
        command: The client's command line. Its `env` is empty: what is no secret stands in the line, and secrets
            (`key_env`, `pass_env`) must be in the client's environment.
        stop: Line that asks it to end, and kills it after the grace period. Fails if it is gone, which is no error.
        kill: Line that ends and removes it now, whatever its state.
    """

    command: ServerCommand
    stop: Sequence[str]
    kill: Sequence[str]


def contain(
    command: ServerCommand,
    container: Container,
    *,
    name: str,
    port: int,
    n_ports: int = 1,
    gpus: Sequence[int | str] = (),
    weights: Path | None = None,
    grace_s: float = 10.0,
) -> Contained:
    """Turn a server's command line into that of a container which runs it.

    Args:
        command: As its backend made it, with `container.listen_host` for `host`, and the deployment's `env` added.
        name: The container's: server id and generation, so that an old one is never taken for the new.
        port, n_ports: What is published on loopback where the container has a network of its own.
        gpus: Indices of this machine's GPUs that it may use; none: it sees none.
        weights: File or folder, mounted read-only under its own path.

    Raises:
        ConfigError: the server would be reached by everybody, or a path cannot be mounted.
    """
    if command.binds_all and container.network == "host":
        raise ConfigError(
            f"{container.image} listens on every interface of its network: set `network: loopback` in `container`, "
            "so that only this machine reaches it"
        )
    runtime, is_podman = container.runtime, container.runtime == "podman"
    argv = [runtime, "run", "--rm", "--init", "--name", name]
    if container.network == "host":
        argv += ["--network", "host"]
    else:
        for each in range(port, port + n_ports):
            argv += ["--publish", f"127.0.0.1:{each}:{each}"]
    argv += ["--ipc", "host"] if container.ipc == "host" else []
    argv += ["--shm-size", container.shm_size] if container.shm_size else []
    argv += _devices(gpus, is_podman=is_podman)
    if container.user is not None:
        argv += ["--user", f"{os.getuid()}:{os.getgid()}" if container.user == "me" else container.user]
    try:
        mounts = [bind_value(path, path) for path in _folders_of(weights)] + [*map(mount_value, container.mounts)]
    except ValueError as error:
        raise ConfigError(f"{container.image}: {error}") from None
    for mount in dict.fromkeys(mounts):
        argv += ["--mount", mount]
    argv += _variables(command, container, has_gpus=bool(gpus))
    entry, args = _entry(command.argv, container)
    return Contained(
        command=replace(command, argv=[*argv, *entry, *container.extra_args, container.image, *args], env={}),
        stop=[runtime, "stop", "-t", f"{grace_s:.0f}", name],
        kill=[runtime, "rm", "--force", name],
    )


def _entry(argv: Sequence[str], container: Container) -> tuple[list[str], list[str]]:
    """What stands before the image, and what follows it."""
    if not argv or container.entrypoint == "wraps":
        return [], [*argv]
    if container.entrypoint == "is_program":
        return [], [*argv[1:]]
    return ["--entrypoint", argv[0]], [*argv[1:]]


def _devices(gpus: Sequence[int | str], *, is_podman: bool) -> list[str]:
    if not gpus:
        return []
    if is_podman:
        return [word for gpu in gpus for word in ("--device", f"nvidia.com/gpu={gpu}")]
    # Docker splits the value at commas, unless it is quoted.
    return ["--gpus", f'"device={",".join(map(str, gpus))}"']


def _variables(command: ServerCommand, container: Container, *, has_gpus: bool) -> list[str]:
    """Secrets by name alone: the value comes from the client's environment, which no other user can read."""
    secret = dict.fromkeys([*([command.key_env] if command.key_env else []), *command.pass_env, *container.pass_env])
    plain: Mapping[str, str] = {
        name: value
        for name, value in command.env.items()
        if name not in secret and name not in _NOT_INSIDE and (name, value) != ("PYTHONPATH", "")
    }
    # where NVIDIA's is the default runtime, an image gets every GPU unless it is told otherwise
    words = [] if has_gpus else ["NVIDIA_VISIBLE_DEVICES=void"]
    words += [f"{name}={value}" for name, value in plain.items()] + [*secret]
    return [part for word in words for part in ("--env", word)]


def _folders_of(weights: Path | None) -> Iterable[str]:
    """The weights, and wherever links among them lead: a hub's cache holds links only."""
    if weights is None:
        return []
    found = [weights]
    for one in [weights, *(sorted(weights.iterdir()) if weights.is_dir() else [])]:
        target = one.resolve()
        if one.is_symlink() and not target.is_relative_to(weights.resolve()):
            found.append(target.parent if target.is_file() else target)
    return [str(one) for one in found]
