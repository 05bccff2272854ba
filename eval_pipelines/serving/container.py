"""A server in a container: the line that runs it, and the lines that end it.

Killing the client (`docker run`) leaves the container running, so whoever keeps the server must run `stop`, wait,
then `kill`. The client lives as long as the container, prints what it prints, and ends with its status.

Source  `docker run --help` 28, `podman run --help` 4 and 5
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.backends import ServerCommand
from eval_pipelines.serving.flags import check_extra_args

# Inside, the devices are numbered anew; and an empty search path, meant for this machine, would hide the image's own.
_NOT_INSIDE = {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"}
_ELSEWHERE = {
    "--name": "the server's identity is its name, so that it can be stopped",
    "--gpus": "they are chosen from those that are free",
    "--network": "use `network`",
    "--net": "use `network`",
    "--publish": "use `network: loopback`",
    "-p": "use `network: loopback`",
    "--publish-all": "use `network: loopback`",
    "-P": "use `network: loopback`",
    "--ipc": "use `ipc`",
    "--shm-size": "use `shm_size`",
    "--user": "use `user`",
    "-u": "use `user`",
    "--entrypoint": "use `entrypoint`",
    "--detach": "the client must live as long as the container: it is what is watched",
    "-d": "the client must live as long as the container: it is what is watched",
    "--restart": "a server that ended is told, never started again behind the lease",
    "--rm": "it is always said",
    "--init": "it is always said",
    **dict.fromkeys(("--volume", "-v", "--mount"), "use `mounts`"),
    **dict.fromkeys(("--env", "-e", "--env-file"), "use the deployment's `env`; for a secret, `pass_env`"),
}


class Container(BaseModel):
    """How a server is put into a container."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field(min_length=1, description="The image, with its tag or digest.")
    runtime: Literal["docker", "podman"] = Field(default="docker", description="The command that runs it.")
    network: Literal["host", "loopback"] = Field(
        default="host",
        description="host: the machine's own, the server listens on loopback; loopback: one of its own, with the "
        "server's port published on loopback.",
    )
    entrypoint: Literal["replace", "wraps", "is_program"] = Field(
        default="replace",
        description="The image's own entrypoint: replaced by the server's command; or it runs the command line it is "
        "given; or it is the server's command, and gets the arguments only.",
    )
    ipc: Literal["host", "private"] = Field(default="host", description="Shared memory: the machine's, or its own.")
    shm_size: str | None = Field(
        default=None, pattern=r"^\d+[kmg]?$", description="Size of shared memory of its own, such as 16g."
    )
    user: str | None = Field(
        default=None,
        pattern=r"^(me|\d+(:\d+)?)$",
        description="`me` (who runs the pipeline) or uid:gid; default: the image's user.",
    )
    mounts: tuple[str, ...] = Field(
        default=(),
        description="Further folders or files it may read, by full path: `/data`, `/here:/inside`; `:rw` to write.",
    )
    pass_env: tuple[str, ...] = Field(
        default=(), description="Names of variables, set where Dagster runs, that are passed by name: secrets."
    )
    extra_args: tuple[str, ...] = Field(default=(), description="Further arguments of `run`, one word each.")

    @property
    def listen_host(self) -> str:
        """Where the server must listen to be reached through 127.0.0.1 of this machine, and from nowhere else."""
        return "127.0.0.1" if self.network == "host" else "0.0.0.0"  # noqa: S104 - of the container alone

    @field_validator("image")
    @classmethod
    def _is_no_flag(cls, image: str) -> str:
        if image.startswith("-") or re.search(r"\s", image):
            raise ValueError("must be the name of an image, such as registry/name:tag")
        return image

    @field_validator("mounts")
    @classmethod
    def _are_full_paths(cls, mounts: tuple[str, ...]) -> tuple[str, ...]:
        for mount in mounts:
            _mount(mount)
        return mounts

    @field_validator("pass_env")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in names):
            raise ValueError("takes names of variables, never their values")
        return names

    @field_validator("extra_args")
    @classmethod
    def _says_nothing_twice(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        if run_together := [arg for arg in args if re.match(r"-[A-Za-z].", arg)]:
            raise ValueError(f"{run_together[0]}: write each short flag, and its value, as a word of its own")
        check_extra_args(args, owned=_ELSEWHERE, gone={})
        return args

    @model_validator(mode="after")
    def _shares_memory_one_way(self) -> Self:
        if self.shm_size is not None and self.ipc == "host":
            raise ValueError("`shm_size` needs `ipc: private`: the machine's shared memory has its own size")
        return self


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
    gpus: Sequence[int] = (),
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
        mounts = [_bind(path, path) for path in _folders_of(weights)] + [*map(_mount, container.mounts)]
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


def _devices(gpus: Sequence[int], *, is_podman: bool) -> list[str]:
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


def _mount(mount: str) -> str:
    """`/here:/inside:rw` as the value of `--mount`. Raises ValueError for a path that is not full, or cannot be said."""
    path, _, how = mount.rpartition(":")
    source, _, target = (path if how in ("rw", "ro") else mount).partition(":")
    if not source.startswith("/") or (target and not target.startswith("/")):
        raise ValueError(f"{mount!r} must be a full path: /here, /here:/inside or /here:/inside:rw")
    return _bind(source, target or source, is_written=how == "rw")


def _bind(source: str, target: str, *, is_written: bool = False) -> str:
    if re.search(r'[,"\n]', source + target):
        raise ValueError(f"{source!r} cannot be mounted: a comma, a quote or a line break in its name")
    return f"type=bind,source={source},target={target}" + ("" if is_written else ",readonly")
