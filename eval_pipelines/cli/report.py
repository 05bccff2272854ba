"""`eval-pipelines report`: what the record says, as a page that can be sent on."""

import webbrowser
from pathlib import Path

import click

from eval_pipelines import formats
from eval_pipelines.config import load_config
from eval_pipelines.errors import ConfigError
from eval_pipelines.plugins import names


@click.command("report")
@click.argument("name", required=False, metavar=f"[{'|'.join(names('reports'))}]")
@click.option("--family", "families", multiple=True, metavar="NAME", help="Only this one; repeatable.")
@click.option("--model", "models", multiple=True, metavar="KEY", help="Only this one; two for a comparison.")
@click.option("--benchmark", "benchmarks", multiple=True, metavar="NAME", help="Only this one; repeatable.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=40, show_default=True, help="Questions or messages shown of each."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Where one page goes; several go into a folder."
)
@click.option("--open", "is_opened", is_flag=True, help="Show it in the browser.")
@click.pass_obj
def report(
    path: Path, name: str | None, families: tuple[str, ...], models: tuple[str, ...], benchmarks: tuple[str, ...],
    limit: int, out: Path | None, is_opened: bool,
) -> None:  # fmt: skip
    """Make a report: a self-contained page. Without a name all of them, under the data root."""
    # not paid for by other commands
    from eval_pipelines.reports import Options, make, write_all, write_index

    data_root = load_config(path).data_root
    if name is None:
        if families or models or benchmarks or out:
            raise ConfigError(f"which report? Name one of {', '.join(names('reports'))}.")
        written = {one: write_all(data_root, one) for one in names("reports")}
        paths = [one.html for pages in written.values() for one in pages]
        paths.insert(0, write_index(data_root, written))
    else:
        pages = list(make(data_root, name, Options(families, models, benchmarks, limit)))
        if not pages:
            raise ConfigError(
                f"the record has nothing for the report {name!r} yet: evaluate something, or name other models."
            )
        out = out or Path(f"{name}.html" if len(pages) == 1 else name)
        is_folder = len(pages) > 1 or out.is_dir()
        paths = [out / f"{page.path.split('/', 1)[-1]}.html" if is_folder else out for page, _ in pages]
        for target, (_, html) in zip(paths, pages, strict=True):
            with formats.written_aside(target) as aside:
                aside.write_text(html, encoding="utf-8")
    for target in paths:
        click.echo(target)
    if is_opened:
        webbrowser.open(paths[0].resolve().as_uri())
