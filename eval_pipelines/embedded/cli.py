"""The command `eval-pipelines-embedded`: serve a GGUF file, or rewrite one as F16."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from eval_pipelines.embedded.errors import StartError

_NEEDED = ("openvino_genai", "gguf", "numpy", "starlette", "uvicorn", "pydantic")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A small OpenAI-compatible server for one GGUF model, without GPU and torch."""


@main.command()
@click.option("--weights", type=click.Path(path_type=Path), required=True, help="The model, a .gguf file.")
@click.option("--served-model-name", required=True, help="The only `model` that requests may name.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on; 0 (default) picks one.")
@click.option("--max-context", type=click.IntRange(min=1), help="Tokens of prompt and answer together.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Compute threads; 0 (default): all cores.")
@click.option("--kv-cache-gb", type=click.IntRange(min=1), default=1, show_default=True, help="Key-value memory, GiB.")
def serve(
    weights: Path,
    served_model_name: str,
    host: str,
    port: int,
    max_context: int | None,
    threads: int,
    kv_cache_gb: int,
) -> None:
    """Serve a model. Prints `ready: http://...` when it listens.

    If the environment variable EMBEDDED_API_KEY is set, requests under /v1/ must carry it.
    """
    with _plain_errors():
        _require_extra()
        from eval_pipelines.embedded import serving

        serving.serve(
            serving.Options(
                weights=weights,
                served_name=served_model_name,
                host=host,
                port=port,
                max_context=max_context,
                threads=threads,
                kv_cache_gb=kv_cache_gb,
                api_key=os.environ.get("EMBEDDED_API_KEY") or None,
            )
        )


@main.command()
@click.argument("source", metavar="IN.gguf", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT.gguf", type=click.Path(path_type=Path))
@click.option("--noise", type=float, default=0.0, show_default=True, help="Damage, as a share of each matrix's spread.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which damage.")
def rewrite(source: Path, target: Path, noise: float, seed: int) -> None:
    """Write IN.gguf as F16 to OUT.gguf, optionally with gaussian noise on every matrix."""
    with _plain_errors():
        _require_extra()
        from eval_pipelines.embedded.rewrite import rewrite as write

        try:
            write(source, target, noise=noise, seed=seed)
        except OSError as error:
            raise StartError(f"cannot write {target}: {error.strerror}.") from error
        click.echo(f"wrote {target} ({target.stat().st_size / 1e6:,.0f} MB)")


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except StartError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _require_extra() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise StartError(f"{', '.join(missing)} not installed. Run: pip install 'eval-pipelines[embedded]'")


if __name__ == "__main__":
    main()
