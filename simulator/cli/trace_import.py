"""`rolloutsim trace import`: what frameworks and serving systems log, turned into a trace."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.existing import force_option, refuse_existing
from traces.errors import InputError

if TYPE_CHECKING:
    from traces.importers import Written
    from traces.importers.importing import Tell

SILENT_S = 2.0


class _WithFormats(click.Command):
    """A command whose help ends with the formats, which are not loaded before."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from traces.importers import FORMATS

        with formatter.section("Formats"):
            formatter.write_dl([(one.name, one.about) for one in FORMATS])


def _format(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    from traces.importers.dispatch import named

    try:
        return named(name).name if name is not None else None
    except InputError as error:
        raise click.BadParameter(str(error), context, option) from error


def _formats(context: click.Context, option: click.Parameter, incomplete: str) -> list[str]:
    from traces.importers import FORMATS

    return [one.name for one in FORMATS if one.name.startswith(incomplete)]


def _column_map(context: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    names = {}
    for pair in pairs:
        column, equals, found = pair.partition("=")
        if not (column and equals):
            raise click.BadParameter(f"'{pair}' is not COLUMN=NAME, like output_tokens=gen_len", context, option)
        if column in names:
            raise click.BadParameter(f"'{pair}': {column} is given twice: give it once", context, option)
        names[column] = found
    return names


@click.command("import", cls=_WithFormats)
@click.argument("paths", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "file_format",
    metavar="NAME",
    callback=_format,
    shell_complete=_formats,
    help="What the sources are; left out, what they show themselves to be.",
)
@click.option(
    "--map",
    "column_map",
    multiple=True,
    metavar="COLUMN=NAME",
    callback=_column_map,
    help="Trace column and its name in the sources, dots leading into objects (prompt_tokens=usage.prompt_tokens); "
    "COLUMN= leaves one out (turns=). Repeatable.",
)
@click.option("--tokenizer", type=click.Path(path_type=Path), help="The model's tokenizer.json, for dumps of text.")
@click.option("--drop-empty", is_flag=True, help="Leave out rollouts of 0 tokens, and say how many.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Trace file to write (Parquet).")
@force_option
def import_(
    paths: tuple[Path, ...],
    file_format: str | None,
    column_map: dict[str, str],
    tokenizer: Path | None,
    drop_empty: bool,
    out: Path,
    force: bool,
) -> None:
    """Turn what another system logged into a trace.

    SOURCE is a file, packed with gzip or zstd or not, a folder of such files, or a pattern in quotes; files come in the
    order of the numbers in their names.
    """
    from traces.importers import import_files

    refuse_existing(out, force)
    with _progress() as tell:
        written = import_files(
            paths, out, file_format, column_map=column_map, tokenizer=tokenizer, drop_empty=drop_empty, tell=tell
        )
    _report(written, out, detected=file_format is None)


def _report(written: "Written", out: Path, *, detected: bool) -> None:
    note = written.note
    if detected:
        files = f"{written.files:,} files" if written.files > 1 else note["imported_from"]
        click.echo(f"read {files} as {written.file_format}, by content (--format NAME reads as something else)")
    click.echo(f"wrote {out}: {written.rollouts:,} rollouts, {written.output_tokens:,} response tokens")
    if note["dropped_empty"]:
        click.echo(f"dropped {note['dropped_empty']:,} rollouts of 0 tokens")
    for sentence in note["assumed"]:
        click.echo(f"assumed: {sentence}")
    if note.get("ignored_columns"):
        click.echo(f"ignored columns: {', '.join(note['ignored_columns'])}")


@contextmanager
def _progress() -> Iterator["Tell | None"]:
    """How far an import is, in bytes read, shown on a terminal once it takes more than two seconds."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns: list[Any] = [BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("import")
    begun = time.monotonic()

    def tell(read: int, total: int) -> None:
        progress.update(task, completed=read, total=total)
        if time.monotonic() - begun > SILENT_S:
            progress.start()

    try:
        yield tell
    finally:
        progress.stop()
