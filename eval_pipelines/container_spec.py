"""How a deployment's server is put into a container: what `container:` in evals.yaml may say."""

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval_pipelines.serving.flags import check_extra_args

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
            mount_value(mount)
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


def mount_value(mount: str) -> str:
    """`/here:/inside:rw` as the value of `--mount`. Raises ValueError for a path that is not full, or cannot be said."""
    path, _, how = mount.rpartition(":")
    source, _, target = (path if how in ("rw", "ro") else mount).partition(":")
    if not source.startswith("/") or (target and not target.startswith("/")):
        raise ValueError(f"{mount!r} must be a full path: /here, /here:/inside or /here:/inside:rw")
    return bind_value(source, target or source, is_written=how == "rw")


def bind_value(source: str, target: str, *, is_written: bool = False) -> str:
    if re.search(r'[,"\n]', source + target):
        raise ValueError(f"{source!r} cannot be mounted: a comma, a quote or a line break in its name")
    return f"type=bind,source={source},target={target}" + ("" if is_written else ",readonly")
