"""`eval-pipelines benchmarks …`: find a benchmark, look at one, write one's own, check it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eval_pipelines.benchmarks.catalog import Catalog, Entry, open_catalog
from eval_pipelines.benchmarks.origins import Origin, origin_of, origins
from eval_pipelines.benchmarks.own_names import SHIPPED
from eval_pipelines.benchmarks.scaffold import Kind, add_entry, write_new
from eval_pipelines.cli.output import Output, note, output_options
from eval_pipelines.config import BenchmarkSpec, Config, load_config
from eval_pipelines.config.reader import OWN_BENCHMARKS
from eval_pipelines.errors import DataError, UnsupportedError
from eval_pipelines.formats import Column, one_line

if TYPE_CHECKING:
    from eval_pipelines.benchmarks.harness import Benchmark

_N_SHOWN = 40
_ASKED = {
    "generate_until": "text",
    "multiple_choice": "choice",
    "loglikelihood": "likelihood",
    "loglikelihood_rolling": "perplexity",
}
_COLUMNS = (
    Column("name", lambda row: row["name"]),
    Column("kind", lambda row: row["kind"], rank=2),
    Column("asked", lambda row: "never" if row["refused"] else row["asked"] or "", rank=1),
    Column("shots", lambda row: "" if row["num_fewshot"] is None else str(row["num_fewshot"]), rank=5, is_number=True),
    Column("metrics", lambda row: ", ".join(row["metrics"]), rank=3, max_width=40),
    Column("data", lambda row: one_line(row["data"], 60), rank=4),
    Column("from", lambda row: _from(row), rank=6),
)
_DECLARED = (
    Column("benchmark", lambda row: row["benchmark"]),
    Column("task", lambda row: row["task"]),
    Column("asked", lambda row: row["protocol"], rank=2),
    Column("limit", lambda row: str(row["limit"] or "all"), rank=3, is_number=True),
    Column("data", lambda row: one_line(row["data"], 60), rank=1),
    Column("from", lambda row: row["from"], rank=4),
)


@click.group()
def benchmarks() -> None:
    """What can be asked: lm-eval's tasks, this project's, and your own."""


@benchmarks.command("ls")
@click.option("--all", "is_all", is_flag=True, help="Every name there is.")
@click.option("--tag", help="Only the tasks of this tag or group.")
@click.option("--search", "text", help="Only names in which these words are found, as `benchmarks search` does.")
@output_options
@click.pass_obj
def ls(path: Path, is_all: bool, tag: str | None, text: str | None, output: Output) -> None:
    """List the benchmarks of evals.yaml, this project's and your own; with an option, the whole catalogue."""
    config, catalog = _opened(path)
    if tag is not None:
        members = [leaf.entry for leaf in catalog.leaves(tag)]
        output.rows([_row(one) for one in _matching(members, text)], _COLUMNS)
    elif is_all or text is not None:
        output.rows([_row(one) for one in _matching(catalog.entries(), text)], _COLUMNS)
    else:
        own = [_row(one) for one in catalog.entries() if one.origin != "lm-eval"]
        whose = origins(config.benchmarks, cache=_cache(config), folder=config.folder) if config else {}
        declared = [_declared(name, spec, whose[name]) for name, spec in config.benchmarks.items()] if config else []
        if not output.is_for_people:
            output.rows([*declared, *own], ())
            return
        if declared:
            note("In evals.yaml:")
            output.rows(declared, _DECLARED)
        for name, origin in whose.items():
            for told in origin.notes:
                note(f"{name}: {told}")
        if own:
            note("\nThis project's and your own:")
            output.rows(own, _COLUMNS)
        for told in catalog.broken():
            note(f"\n{told}")
        n = sum(1 for one in catalog.entries() if one.origin == "lm-eval")
        note(f"\n{n:,} names of lm-eval: `benchmarks search TEXT` finds them, `benchmarks ls --all` lists them.")


@benchmarks.command("search")
@click.argument("text", nargs=-1, required=True)
@click.option("--all", "is_all", is_flag=True, help=f"All that are found, not the {_N_SHOWN} nearest.")
@output_options
@click.pass_obj
def search(path: Path, text: tuple[str, ...], is_all: bool, output: Output) -> None:
    """Find benchmarks in whose name, data set or tags all the words of TEXT stand; the nearest names first."""
    found = _matching(_opened(path)[1].entries(), " ".join(text))
    shown = found if is_all or not output.is_for_people else found[:_N_SHOWN]
    output.rows([_row(one) for one in shown], _COLUMNS)
    if output.is_for_people:
        note(f"\n{len(found) - len(shown):,} more: --all" if len(shown) < len(found) else f"\n{len(found):,} found")


@benchmarks.command("show")
@click.argument("name")
@click.option("--load/--no-load", "is_loaded", default=None, help="Read its data; by default if it is on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.pass_obj
def show(path: Path, name: str, is_loaded: bool | None, as_json: bool) -> None:
    """One benchmark: what it is; with its data at hand also its first prompt, target, filters, needs and versions."""
    from eval_pipelines.benchmarks.overview import is_local, loaded_facts, static_facts

    config, spec, catalog = _named(path, name)
    leaves = catalog.leaves(spec.task)
    facts = static_facts(name, spec, catalog.entry(spec.task), leaves)
    if notes := origin_of(spec, catalog, folder=path.parent).notes:
        facts["note"] = "; ".join(notes)
    if is_loaded or (is_loaded is None and is_local(spec, leaves)):
        try:
            facts |= loaded_facts(_load(name, spec, config, limit=1))
        except (DataError, UnsupportedError) as error:
            if is_loaded:
                raise
            facts["samples"] = f"not read: {error}"
    elif not as_json:
        facts["samples"] = "not read: its data is not on this machine; --load fetches it"
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False, default=str))
        return
    for key, value in facts.items():
        if value == []:
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        click.echo(f"{key}:\n{_indented(text)}" if "\n" in text or len(text) > 100 else f"{key:<15}{text}")


@benchmarks.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(["generate", "choice", "python"]), default="generate", show_default=True)
@click.option("--add/--no-add", "is_added", default=True, help="Add it to evals.yaml.")
@click.pass_obj
def new(path: Path, name: str, kind: Kind, is_added: bool) -> None:
    """Write a small benchmark of your own that works, with its data, beside evals.yaml."""
    config = load_config(path)
    if name in (*config.benchmarks, *config.suites):
        raise click.UsageError(f"{config.path} has a benchmark or suite {name!r} already")
    if name in _opened(path)[1]:
        raise click.UsageError(
            f"a benchmark {name!r} is there already (`eval-pipelines benchmarks show {name}`), and entries that name it "
            f"would mean yours: choose another name"
        )
    written = write_new(name, kind, config.folder / OWN_BENCHMARKS)
    for one in written.paths:
        click.echo(f"wrote {one}")
    if is_added and add_entry(config, written.entry):
        click.echo(f"added to {config.path}: {written.entry}")
    else:
        click.echo(f"add it to the benchmarks of {config.path}:\n  {written.entry}")
    click.echo(f"check it with: eval-pipelines benchmarks validate {name}")


@benchmarks.command("validate")
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first samples of each subtask.")
@click.option("--json", "as_json", is_flag=True, help="The findings, for programs.")
@click.pass_obj
def validate(path: Path, name: str, limit: int | None, as_json: bool) -> None:
    """Grade the gold answers of a benchmark, and look for what would make its numbers wrong.

    Ends with 1 if something would. No model is asked.
    """
    from eval_pipelines.benchmarks.own_file import read_own
    from eval_pipelines.benchmarks.validation import validate as validated

    config, spec, catalog = _named(path, name)
    entry = catalog.entry(spec.task)
    own = read_own(entry.path).said if entry.kind == "own" and entry.path is not None else None
    benchmark = _load(name, spec, config, limit=limit)
    found = validated(benchmark, own)
    if as_json:
        told = [{"level": one.level, "check": one.check, "told": one.told} for one in found]
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        for one in found:
            note(f"{one.level:<6} {one.check}: {one.told}")
        n = sum(1 for _ in benchmark.samples())
        n_errors = sum(one.level == "error" for one in found)
        is_open = any(one.check == "gold" for one in found)
        sound = "no errors; see the note on its gold answers" if is_open else "its gold answers score 1.0"
        click.echo(f"{name}: {n:,} samples, {f'{n_errors} errors' if n_errors else sound}")
    sys.exit(1 if any(one.level == "error" for one in found) else 0)


def _opened(path: Path) -> tuple[Config | None, Catalog]:
    """Without evals.yaml there is still lm-eval's catalogue."""
    config = load_config(path) if path.exists() else None
    return config, open_catalog(_cache(config), include=_own_folder(config, path))


def _named(path: Path, name: str) -> tuple[Config | None, BenchmarkSpec, Catalog]:
    """A benchmark as it would be evaluated, and the catalogue that its names stand in."""
    config = load_config(path) if path.exists() else None
    if config is not None and name in config.benchmarks:
        spec = config.benchmarks[name]
    else:
        spec = BenchmarkSpec(task=name, include=_own_folder(config, path))
    return config, spec, open_catalog(_cache(config), include=spec.include)


def _own_folder(config: Config | None, path: Path) -> Path | None:
    own = path.parent / OWN_BENCHMARKS
    folders = {spec.include for spec in config.benchmarks.values() if spec.include} if config else set()
    return own if own.is_dir() else folders.pop() if len(folders) == 1 else None


def _cache(config: Config | None) -> Path:
    return config.data_root / "cache" if config else Path.home() / ".cache" / "eval-pipelines"


def _load(name: str, spec: BenchmarkSpec, config: Config | None, *, limit: int | None) -> "Benchmark":
    from eval_pipelines.benchmarks.harness import load

    return load(name, spec, limit=limit, cache=_cache(config))


def _matching(entries: Any, text: str | None) -> list[Entry]:
    words = (text or "").casefold().split()
    found = [one for one in entries if all(word in _searched(one) for word in words)]
    if not words:
        return found
    whole = "_".join(words)
    return sorted(found, key=lambda one: (*_distance(one.name.casefold(), whole), one.name))


def _searched(entry: Entry) -> str:
    about = entry.about
    parts = [entry.name, about.get("dataset"), about.get("tags"), about.get("description"), about.get("metrics")]
    return " ".join(str(part) for part in parts if part).casefold()


def _distance(name: str, whole: str) -> tuple[int, int]:
    if name == whole:
        return 0, 0
    rank = 1 if name.startswith(whole) else 2 if whole in name else 3
    return rank, len(name)


def _row(entry: Entry) -> dict[str, Any]:
    about = entry.about
    tags = about.get("tags") or []
    return {
        "name": entry.name,
        "kind": entry.kind,
        "asked": _ASKED.get(about.get("output_type", "")),
        "refused": about.get("refused"),
        "num_fewshot": about.get("num_fewshot"),
        "metrics": about.get("metrics") or [],
        "data": about.get("dataset") or "",
        "version": about.get("version"),
        "tags": [tags] if isinstance(tags, str) else tags,
        "n_members": len(entry.members) or None,
        "origin": entry.origin,
        "replaces": entry.replaces,
        "path": None if entry.path is None else str(entry.path),
    }


def _from(row: dict[str, Any]) -> str:
    whose = row["origin"] if row["origin"] in SHIPPED else row["path"] or row["origin"]
    return f"{whose}, in place of the one in {row['replaces']}" if row["replaces"] else whose


def _declared(name: str, spec: BenchmarkSpec, origin: Origin) -> dict[str, Any]:
    source = "its own" if spec.data is None else spec.data.in_words
    return {
        "benchmark": name, "task": spec.task, "protocol": spec.protocol, "limit": spec.limit, "data": source,
        "from": origin.in_words,
    }  # fmt: skip


def _indented(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines())
