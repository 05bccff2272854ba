"""S3 and what speaks like it (MinIO, Ceph, R2 …), Google Cloud Storage, Azure: each landed file is an object.

Needs   the extra `object-store` (obstore)
Source  obstore documentation; a put with `If-None-Match: *` never replaces an object
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from eval_pipelines.errors import ConfigError, WarehouseError
from eval_pipelines.records import Record

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_SCHEMES = ("s3", "gs", "az")
_LISTED_AT_ONCE = 1_000
_TIMEOUT = "60s"


class Spec(Record):
    """An object store."""

    url: str = Field(description="Bucket and folder, such as `s3://evals/record`; also `gs://` and `az://`.")
    endpoint_url: str | None = Field(
        default=None, description="Of a server that is not the cloud's own, such as MinIO."
    )
    region: str | None = None
    access_key_env: str | None = Field(
        default=None, description="Variable that holds the access key; None: the machine's own role or account."
    )
    secret_key_env: str | None = Field(default=None, description="Variable that holds the secret key.")

    @field_validator("url")
    @classmethod
    def _names_a_bucket(cls, url: str) -> str:
        scheme, found, rest = url.partition("://")
        if not found or scheme not in _SCHEMES or not rest.strip("/"):
            raise ValueError(f"must name a bucket, as in s3://evals/record; known: {', '.join(_SCHEMES)}")
        return url.rstrip("/")


def open_store(spec: Spec, secrets: Mapping[str, str]) -> "Objects":
    """Raises ConfigError where the extra or a secret is missing."""
    try:
        from obstore.store import from_url
    except ImportError:
        raise ConfigError(
            "the store `object_store` needs the extra: pip install 'eval-pipelines[object-store]'"
        ) from None
    given: dict[str, Any] = {}
    if spec.region is not None:
        given["region"] = spec.region
    if spec.endpoint_url is not None:
        given["endpoint"] = spec.endpoint_url
    for name, variable in (("access_key_id", spec.access_key_env), ("secret_access_key", spec.secret_key_env)):
        if variable is not None:
            if not secrets.get(variable):
                raise ConfigError(f"store: the environment variable {variable} is not set")
            given[name] = secrets[variable]
    is_plain = (spec.endpoint_url or "").startswith("http://")
    with _told(spec.url):
        opened = from_url(spec.url, client_options={"allow_http": is_plain, "timeout": _TIMEOUT}, **given)
    return Objects(opened, spec.url)


class Objects:
    """Landed files as objects below `<url>/landing/`."""

    def __init__(self, opened: "ObjectStore", url: str) -> None:
        self._opened, self._url = opened, url

    def names(self, folder: str) -> list[str]:
        """Names of the objects below a folder."""
        import obstore

        with _told(self._url):
            found = obstore.list(self._opened, f"landing/{folder}", chunk_size=_LISTED_AT_ONCE)
            return [each["path"].removeprefix("landing/") for chunk in found for each in chunk]

    def put(self, name: str, path: Path) -> bool:
        """An object appears when it is whole; one that is there is never replaced."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with _told(self._url):
            try:
                obstore.put(self._opened, f"landing/{name}", path, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def get(self, name: str, path: Path) -> None:
        """Streams, so that memory holds a part of it at a time."""
        import obstore

        with _told(self._url), path.open("wb") as sink:
            for chunk in obstore.get(self._opened, f"landing/{name}"):
                sink.write(chunk)


@contextmanager
def _told(url: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        # up to the answer's body, which is XML, or the library's own structure
        words = " ".join(re.split(r"\n\n|: <\?xml|: <Error>", str(error))[0].split())[:300]
        raise WarehouseError(
            f"the store {url} did not do what was asked: {words}. What landed on this machine is kept, and is copied "
            f"there by the next run or by `eval-pipelines sync`."
        ) from error
