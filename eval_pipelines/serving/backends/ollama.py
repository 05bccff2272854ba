"""ollama: an Ollama server of its own for one model: a GGUF file, or a name that Ollama has pulled.

Needs   the `ollama` command and /bin/sh; imports no Ollama code
Offers  chat, completions. It echoes no prompt, so log-likelihoods of a given text are refused
Limits  it takes no key, so on a machine that is shared anyone can ask it through loopback; its names know no `@`, so
        `family@revision` is served as `family:revision`; a GGUF file is copied into its store
Source  Ollama documentation, "Importing a model", "Modelfile", "OpenAI compatibility", FAQ; not run here
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.backends import Cause, Model, ServerCommand
from eval_pipelines.serving.flags import program
from eval_pipelines.serving.weights import gguf_file

READS = frozenset({"gguf"})

# The shell becomes the server ($$ is its process before and after), so that it dies with its keeper. Beside it, the
# model is made as soon as the server listens. The health route answers 200 only then; if making fails, the server ends.
_MAKE = """
ollama=$0 name=$1 source=$2 modelfile=$3 pull=$4
fail() { echo "error: $*" >&2; kill $$; exit 1; }
make() {
  until "$ollama" list >/dev/null 2>&1; do kill -0 $$ 2>/dev/null || exit 1; sleep 0.2; done
  if [ -n "$modelfile" ]; then
    file=$(mktemp) || fail "cannot write a Modelfile"
    printf '%s\\n' "$modelfile" > "$file"
    "$ollama" create "$name" -f "$file" || { rm -f "$file"; fail "ollama could not make $name from $source"; }
    rm -f "$file"
  else
    if [ -n "$pull" ]; then "$ollama" pull "$source" || fail "ollama could not pull $source"; fi
    "$ollama" cp "$source" "$name" || fail "ollama has no model $source"
  fi
}
make &
exec "$ollama" serve
"""
_CAUSES = (
    Cause(
        r"cannot start .*no such file|ollama: (not found|no such file)",
        "there is no such command: install Ollama, or name it in `executable`",
    ),
    Cause(
        r"ollama has no model",
        "the name in `served_name` was never pulled on this machine: `ollama pull` it, or set `pull: true`",
    ),
    Cause(r"ollama could not pull", "the model cannot be fetched from Ollama's registry: see the lines above"),
    Cause(
        r"invalid file magic|unsupported (content type|architecture)|unknown type|unexpected eof",
        "the weights are damaged, or of a kind this Ollama does not read",
    ),
    Cause(
        r"no space left on device", "a GGUF file is copied into Ollama's store: name a larger disk in `models_folder`"
    ),
    Cause(r"\$home is not defined", "Ollama wants a HOME: set it in `env`"),
    Cause(r"ollama could not make", "the model could not be made: see the lines above, and `modelfile`"),
)
_VARIABLES = {
    "models_folder": "OLLAMA_MODELS",
    "num_parallel": "OLLAMA_NUM_PARALLEL",
    "context_length": "OLLAMA_CONTEXT_LENGTH",
    "kv_cache_type": "OLLAMA_KV_CACHE_TYPE",
    "max_queue": "OLLAMA_MAX_QUEUE",
}


class Spec(BaseModel):
    """Options of `ollama serve`, which takes them as variables. What is left out is left to Ollama."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    executable: str = Field(
        default="ollama", min_length=1, description="The `ollama` command: on the PATH, or a full path."
    )
    models_folder: str | None = Field(
        default=None,
        pattern="^/",
        description="Ollama's store (full path); default: the user's. Holds a copy of GGUFs.",
    )
    num_parallel: int | None = Field(default=None, ge=1, description="Requests computed at once.")
    context_length: int | None = Field(default=None, ge=1, description="Prompt plus answer in tokens, per request.")
    flash_attention: bool | None = Field(default=None, description="Needed for a `kv_cache_type` other than f16.")
    kv_cache_type: Literal["f16", "q8_0", "q4_0"] | None = Field(
        default=None, description="Type of cached keys and values."
    )
    max_queue: int | None = Field(default=None, ge=1, description="Requests that may wait; others are refused.")
    modelfile: tuple[str, ...] = Field(
        default=(), description="Further lines of the Modelfile of a GGUF file: TEMPLATE …, PARAMETER stop …"
    )
    pull: bool = Field(default=False, description="Fetch a model that is not here from Ollama's registry.")
    n_gpus: int = Field(default=0, ge=0, description="GPUs to reserve for it; 0: it computes on CPUs.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")

    @field_validator("executable")
    @classmethod
    def _is_found_from_anywhere(cls, executable: str) -> str:
        return program(executable)

    @field_validator("modelfile")
    @classmethod
    def _names_no_other_weights(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        if any(line.split(maxsplit=1)[:1] in (["FROM"], ["from"]) for line in lines):
            raise ValueError("FROM does not belong here: it is the model's `weights`")
        return lines


def needs_weights(_spec: Spec) -> bool:
    """A model that Ollama pulled is named by `served_name` instead."""
    return False


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The server, and the making of its one model. Raises ConfigError for weights that are no GGUF file."""
    name = f"{model.key.family}:{model.key.revision}"
    lines: list[str] = []
    if model.weights is not None:
        source = str(gguf_file(model, server="Ollama"))
        lines = [f"FROM {source}", *spec.modelfile]
    elif model.served_name is not None:
        source = model.served_name
    else:
        raise ConfigError(
            f"{model.key}: Ollama needs `weights` (a GGUF file), or in `served_name` the name it pulled the model by"
        )
    env = {
        variable: str(value) for field, variable in _VARIABLES.items() if (value := getattr(spec, field)) is not None
    }
    if spec.flash_attention is not None:
        env["OLLAMA_FLASH_ATTENTION"] = str(int(spec.flash_attention))
    return ServerCommand(
        argv=["/bin/sh", "-c", _MAKE, spec.executable, name, source, "\n".join(lines), "yes" if spec.pull else ""],
        env={
            "OLLAMA_HOST": f"{host}:{port}",
            # one model per server, for as long as the server lives; what others keep in the store stays
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_NOPRUNE": "1",
            **env,
        },
        # not the root route, which answers before there is a model
        health_path=f"/v1/models/{name}",
        causes=_CAUSES,
        served_name=name,
    )
