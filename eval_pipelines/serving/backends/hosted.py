"""hosted: bind an address that someone else runs, or several that serve the same model.

Needs   a base URL that speaks OpenAI's routes, or the name of a provider below; the name of the variable with the key
Source  packages `openai` 3.52 (Azure, Bedrock, parameters), `litellm` 1.109 (addresses), `together`, `huggingface_hub`
        1.x and 2.x, `replicate` 1.0. What these did not settle is left to the operator
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from eval_pipelines.client.headers import sendable, without_secrets
from eval_pipelines.config.deployments import asked_for
from eval_pipelines.serving.backends import Binding, Model

READS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Provider:
    """What is known of a provider. Every entry of a deployment goes before it.

    Attributes:
        base_url: With the names of the fields it `needs` in braces.
        lists_models: False where its list of models lacks names that it answers to, or has another shape.
        requests_per_minute: As published for every account; None where it depends on the account.
    """

    base_url: str = ""
    key_env: str | None = None
    needs: tuple[str, ...] = ()
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str | None] = field(default_factory=dict)
    protocol: str = "openai"
    lists_models: bool = True
    requests_per_minute: int | None = None


PROVIDERS = {
    # without api_version: its v1 route. That lists models, and answers to deployments
    "azure": Provider(
        "https://{resource}.openai.azure.com/openai/v1",
        "AZURE_OPENAI_API_KEY",
        needs=("resource",),
        key_header="api-key",
        key_prefix="",
        lists_models=False,
    ),
    "bedrock": Provider(
        "https://bedrock-runtime.{region}.amazonaws.com/openai/v1",
        "AWS_BEARER_TOKEN_BEDROCK",
        needs=("region",),
        lists_models=False,
    ),
    # answers to MODEL:PROVIDER too, which it does not list; for an Inference Endpoint give its base_url
    "huggingface": Provider("https://router.huggingface.co/v1", "HF_TOKEN", lists_models=False),
    "nvidia": Provider("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY"),
    # max_tokens is deprecated there, and refused by models that reason
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY", renames={"max_tokens": "max_completion_tokens"}),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", lists_models=False),
    "replicate": Provider(
        "https://api.replicate.com/v1", "REPLICATE_API_TOKEN", protocol="replicate", requests_per_minute=600
    ),
    "together": Provider("https://api.together.ai/v1", "TOGETHER_API_KEY", lists_models=False),
}
ProviderName = Literal["azure", "bedrock", "huggingface", "nvidia", "openai", "openrouter", "replicate", "together"]

_KEY_LIKE = re.compile(r"(hf|r8|sk|nvapi|tgp|ABSK)_?(?=\w*\d)\w{16,}")


def _is_http(url: str) -> str:
    # no message quotes it: a key may stand in it
    host = re.match(r"https?://([^/?#]+)", url)
    if not host:
        raise ValueError("this is no URL: it must start with http:// or https:// and name a host")
    if "@" in host[1]:
        raise ValueError("the URL carries credentials: take them out and name a variable that holds them")
    if "?" in url or "#" in url:
        raise ValueError("the URL has a query: write only where the routes start, and name a variable that holds a key")
    try:
        is_whole = urlsplit(url).port != 0 and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ValueError("this is no URL: its host and port must be as in http://[::1]:8000/v1, without spaces")
    return url.rstrip("/")


def _is_a_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or _KEY_LIKE.fullmatch(name):
        raise ValueError("this looks like a key, not like the name of an environment variable")
    return name


def _is_part_of_a_host(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", name, re.ASCII):
        raise ValueError(f"{name!r} must be a single name of letters, digits and dashes")
    return name


Url = Annotated[str, AfterValidator(_is_http)]
Variable = Annotated[str, AfterValidator(_is_a_name)]
HostPart = Annotated[str, AfterValidator(_is_part_of_a_host)]


class Spec(BaseModel):
    """Options of a hosted endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    provider: ProviderName | None = Field(default=None, description="Fills in what is known of this provider.")
    base_url: Url | None = Field(default=None, description="Where the routes start: https://api.openai.com/v1.")
    base_urls: tuple[Url, ...] = Field(
        default=(), description="Several addresses of one model, in place of base_url. The first names its version."
    )
    resource: HostPart | None = Field(default=None, description="azure: RESOURCE in https://RESOURCE.openai.azure.com.")
    region: HostPart | None = Field(default=None, description="bedrock: the AWS region, such as us-west-2.")
    api_version: str | None = Field(
        default=None, pattern=r"^[\w.-]+$", description="azure: a dated version asks /deployments/SERVED_NAME."
    )
    served_name: str | None = Field(default=None, description="Name of the model there; default: the model key.")
    api_key_env: Variable | None = Field(
        default=None, description="Name of the variable that holds the key, never the key."
    )
    api_key_header: str | None = Field(default=None, description="Header that carries the key; default: authorization.")
    api_key_prefix: str | None = Field(default=None, description="What stands before the key; default: `Bearer `.")
    headers: dict[str, str] = Field(
        default_factory=dict, description="Extra headers. No secrets: they stand in this file."
    )
    renames: dict[str, str | None] = Field(
        default_factory=dict, description="Parameter of a request → its name there; null: it is not sent."
    )
    lists_models: bool | None = Field(
        default=None, description="Whether /models must list the served name; false: only a first request shows it."
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="At each address, over all processes of this machine with the same key."
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Prompts and answers together; an answer counts as max_tokens until it is there.",
    )
    n_per_request: int = Field(
        default=1, ge=1, description="Repeats asked at once by `n`; above 1 only where answer i has the seed plus i."
    )
    proxy: Url | None = Field(default=None, description="HTTP proxy on the way, such as http://proxy.example:3128.")
    proxy_credentials_env: Variable | None = Field(
        default=None, description="Name of the variable that holds `user:password` for the proxy."
    )

    @model_validator(mode="after")
    def _are_headers(self) -> Self:
        sendable({**self.headers, (self.api_key_header or "authorization"): self.api_key_prefix or ""})
        without_secrets(
            self.headers,
            "name the variable that holds it in `api_key_env` (with `api_key_header: {name}`), or in the interceptor "
            "payload's `headers_from_env`",
        )
        return self

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        known = _provider(self)
        if self.base_urls and self.base_url not in (None, self.base_urls[0]):
            raise ValueError("give `base_url` or `base_urls`, not both")
        if len(set(self.base_urls)) < len(self.base_urls):
            raise ValueError("`base_urls` names an address twice")
        for name in ("resource", "region"):
            if getattr(self, name) and name not in known.needs:
                asks = [each for each, one in PROVIDERS.items() if name in one.needs]
                raise ValueError(f"`{name}` is a field of {', '.join(asks)}: set `provider`, or leave it out")
        if self.api_version and self.provider != "azure":
            raise ValueError("`api_version` is a field of azure: set `provider: azure`, or leave it out")
        if self.proxy_credentials_env and not self.proxy:
            raise ValueError("`proxy_credentials_env` says nothing without `proxy`")
        if self.n_per_request > 1 and known.protocol != "openai":
            raise ValueError(f"`n_per_request`: provider {self.provider} gives one answer to a request; leave it out")
        # the address stands in for the model's bytes, so it must be there to be read
        object.__setattr__(self, "base_url", self._first_url(known))
        return self

    def _first_url(self, known: Provider) -> str:
        if given := [self.base_url, *self.base_urls][bool(self.base_urls)]:
            return given
        if not self.provider:
            raise ValueError(
                f"`base_url` is missing: write where the OpenAI-style routes start, such as "
                f"https://api.openai.com/v1, or name a `provider`: {', '.join(PROVIDERS)}"
            )
        fields = {name: getattr(self, name) for name in known.needs}
        if missing := [name for name, value in fields.items() if not value]:
            raise ValueError(
                f"provider {self.provider} needs `{'` and `'.join(missing)}`, for {known.base_url}; or write the whole `base_url`"
            )
        url = known.base_url.format(**fields)
        return url.removesuffix("/v1") if self.api_version else url


def bind(spec: Spec, model: Model) -> Binding:
    """The addresses, as declared, with what is known of their provider."""
    known, given = _provider(spec), spec.model_fields_set
    served_name = asked_for(spec, model.served_name, model.key)
    urls = spec.base_urls or (spec.base_url or "",)
    if spec.api_version:
        urls = tuple(url if "/deployments/" in url else f"{url}/deployments/{quote(served_name, '')}" for url in urls)
    lists_models = known.lists_models if spec.lists_models is None else spec.lists_models
    return Binding(
        urls=urls,
        served_name=served_name,
        # an explicit null takes a provider's value away
        key_env=spec.api_key_env if "api_key_env" in given else known.key_env,
        headers={**known.headers, **spec.headers},
        key_header=(known.key_header if spec.api_key_header is None else spec.api_key_header).lower(),
        key_prefix=known.key_prefix if spec.api_key_prefix is None else spec.api_key_prefix,
        protocol=known.protocol,
        path_suffix=f"?api-version={spec.api_version}" if spec.api_version else "",
        renames={**known.renames, **spec.renames},
        lists_models=lists_models,
        requests_per_minute=(spec.requests_per_minute if "requests_per_minute" in given else known.requests_per_minute),
        tokens_per_minute=spec.tokens_per_minute,
        n_per_request=spec.n_per_request,
        proxy=spec.proxy,
        proxy_credentials_env=spec.proxy_credentials_env,
    )


def _provider(spec: Spec) -> Provider:
    return PROVIDERS[spec.provider] if spec.provider else Provider()
