"""What replay and run tell people besides a table: a page and a timeline, and the command that made them."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from simulator.results import Result
    from simulator.scenario import Scenario

Command = Callable[..., Any]
WRITTEN = "rolloutsim.written"


class Quoted(click.Command):
    """A command that knows how it was written: `as_written` tells it, for whoever wants to run it again."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words before they are taken apart."""
        ctx.meta[WRITTEN] = shlex.join(["rolloutsim", str(ctx.info_name), *args])
        return super().parse_args(ctx, args)


def as_written() -> str:
    """The command line of the `Quoted` command that runs."""
    written: str = click.get_current_context().meta[WRITTEN]
    return written


def report_options(command: Command) -> Command:
    """Add the flags that say which files tell people what came of a run."""
    file = click.Path(path_type=Path)
    command = click.option("--timeline", type=file, metavar="FILE",
                           help="Write a timeline for ui.perfetto.dev: .pftrace, or .pftrace.gz.")(command)  # fmt: skip
    return click.option(
        "--html", type=file, metavar="FILE", help="Write one HTML page about the run; it loads nothing."
    )(command)


def check_reports(html: Path | None, timeline: Path | None) -> None:
    """Make sure, before anything is simulated, that the files that were asked for can be written."""
    from simulator.report.folder import check_file

    for flag, file in (("--html", html), ("--timeline", timeline)):
        if file is not None:
            check_file(file, flag)
    if html is not None and timeline is not None and html.absolute() == timeline.absolute():
        raise click.UsageError(f"--html and --timeline are both {html}: give each a file of its own")


def write_reports(result: "Result", scenario: "Scenario", html: Path | None, timeline: Path | None) -> Iterator[str]:
    """Write the files that were asked for, and say where they are."""
    if html is not None:
        from simulator.report.page.write import write as write_page

        write_page(result, scenario, html, as_written())
        yield f"page: {html}"
    if timeline is not None:
        from simulator.report.timeline.write import write as write_timeline

        yield f"timeline: {timeline} ({write_timeline(result, timeline)})"
