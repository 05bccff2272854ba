"""hosted: bind an address that someone else runs.

Needs   a base URL that speaks OpenAI's routes, and the name of the environment variable that holds its key
"""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from eval_pipelines.serving.backends import Binding, Model

READS: frozenset[str] = frozenset()


class Spec(BaseModel):
    """Options of a hosted endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(description="Where the OpenAI-style routes start, for example https://api.openai.com/v1.")
    served_name: str | None = Field(default=None, description="Name of the model there; default: the model key.")
    api_key_env: str | None = Field(default=None, description="Name of the variable that holds the key, never the key.")
    headers: dict[str, str] = Field(
        default_factory=dict, description="Extra headers. No secrets: they stand in this file."
    )

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no URL: it must start with http:// or https://")
        if "@" in url.split("/")[2]:
            raise ValueError("the URL carries credentials: take them out and name a variable in api_key_env")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not name.replace("_", "").isalnum():
            raise ValueError("this looks like a key, not like the name of an environment variable")
        return name


def bind(spec: Spec, model: Model) -> Binding:
    """The address, as declared."""
    return Binding(
        urls=(spec.base_url,),
        served_name=model.served_name or spec.served_name or str(model.key),
        key_env=spec.api_key_env,
        headers=spec.headers,
    )
