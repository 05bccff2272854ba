"""From a binding to an endpoint: secrets are read here, by the names that the configuration gives."""

from collections.abc import Mapping
from pathlib import Path

from eval_pipelines.config import Deployment
from eval_pipelines.endpoint import Endpoint, Proxy, Replica
from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.backends import Binding


def bound_endpoint(
    binding: Binding, deployment: Deployment, secrets_: Mapping[str, str], shared_folder: Path
) -> Endpoint:
    """The endpoint of an address that someone else runs, before anything was asked of it.

    Args:
        secrets_: Values of the environment variables that the deployment names.
        shared_folder: Where all processes of this machine count requests per minute.

    Raises:
        ConfigError: a variable that the deployment names is not set, or holds what cannot be sent.
    """
    headers = {name.lower(): value for name, value in binding.headers.items()}
    if binding.key_env:
        key = _secret(secrets_, binding.key_env, named_in="api_key_env", deployment=deployment)
        headers[binding.key_header] = binding.key_prefix + key
    return Endpoint(
        url=binding.urls[0],
        served_name=binding.served_name,
        backend=deployment.backend,
        **deployment.asking,
        **deployment.paying(binding.served_name, binding.urls[0], binding.key_env),
        headers=headers,
        protocol=binding.protocol,
        path_suffix=binding.path_suffix,
        replicas=tuple(Replica(url, headers) for url in binding.urls),
        renames=binding.renames,
        lists_models=binding.lists_models,
        requests_per_minute=binding.requests_per_minute,
        tokens_per_minute=binding.tokens_per_minute,
        shared_folder=shared_folder,
        budgets_folder=shared_folder,
        key_env=binding.key_env,
        n_per_request=binding.n_per_request,
        proxy=_proxy(binding, deployment, secrets_),
    )


def _proxy(binding: Binding, deployment: Deployment, secrets_: Mapping[str, str]) -> Proxy | None:
    if not binding.proxy:
        return None
    name = binding.proxy_credentials_env
    if not name:
        return Proxy(binding.proxy)
    credentials = _secret(secrets_, name, named_in="proxy_credentials_env", deployment=deployment)
    username, colon, password = credentials.partition(":")
    if not colon or not username:
        raise ConfigError(
            f"deployment {deployment.name!r}: the environment variable {name} must read user:password, for the proxy "
            f"{binding.proxy}."
        )
    return Proxy(binding.proxy, username, password)


def _secret(secrets_: Mapping[str, str], name: str, *, named_in: str, deployment: Deployment) -> str:
    """The value of a variable, without the line end that a file or a copy leaves at its end."""
    value = secrets_.get(name, "").strip()
    provider = getattr(deployment.spec, "provider", None)
    is_given = getattr(deployment.spec, named_in, None) == name
    if not value:
        says = f"the deployment names it in {named_in}" if is_given else f"provider {provider} takes its key from it"
        hint = "" if is_given else f", or name another in {named_in}"
        raise ConfigError(
            f"the environment variable {name} is not set, and {says}. "
            f"Set it where Dagster runs (for example in .env){hint}, then try again."
        )
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"the environment variable {name} holds characters that no HTTP header can carry.")
    return value
