"""`rolloutsim acceptance`: what a drafter proposes on recorded rollouts and what of it is accepted; no cost model."""

import json
import shutil
from pathlib import Path
from typing import Any

import click

from simulator.cli.flags import drafter_option, drafter_options, parse_steps, refusing_flags, with_flags
from simulator.cli.numbers import Count
from simulator.limits import LARGEST_BUDGET
from simulator.report.grid import PIPED, Column, grid, marked


@click.command()
@click.argument("trace", metavar="TRACE")
@drafter_option
@drafter_options
@click.option(
    "--max-spec",
    type=Count(0, LARGEST_BUDGET),
    default=LARGEST_BUDGET,
    help="Draft tokens per decode step [default: unlimited].",
)
@click.option("--samples", type=Count(1), help="Replay only the first N samples of each prompt; history stays whole.")
@click.option(
    "--no-prompt", is_flag=True, help="Start from an empty context: the first token is emitted without a draft."
)
@click.option("--no-history", is_flag=True, help="Draft from the rollout's own output alone.")
@click.option(
    "--steps", callback=lambda c, p, v: parse_steps(v), help="RL steps to replay, such as 1 or 2,4-7 [default: all]."
)
@click.option("--references", callback=lambda c, p, v: _numbers(v), metavar="N,N,...",
              help="Draft from so many whole siblings of the same RL step in place of a history, a row each: how acceptance "
              "grows with the siblings that are known, such as 0,1,5,15.")  # fmt: skip
@click.option("--record", type=click.Path(path_type=Path), metavar="FILE",
              help="Also write the trace with what is accepted and drafted at each token, for drafter `recorded`.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def acceptance(
    trace: str, drafter: dict[str, Any], max_spec: int, samples: int | None, no_prompt: bool, no_history: bool,
    steps: list[int] | None, references: list[int] | None, record: Path | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Replay every rollout of TRACE alone, each decode step with the same budget, and count what is accepted.

    Each RL step is drafted from the --window recorded steps before it, frozen, and from the rollout's own output.
    """
    from simulator.drafting import alone
    from simulator.drafting.references import acceptance_by_references
    from simulator.progress import doing
    from simulator.scenario import drafter_settings
    from traces.io import provenance, read, write

    if no_history and settings["scope"] is not None:
        raise click.UsageError(f"--no-history and --scope {settings['scope']} contradict each other: give one of them")
    if references is not None and (clash := _beside_references(no_history, record, settings)):
        raise click.UsageError(f"--references puts siblings in place of a history: leave {clash} out")
    unlike = {"scope": "request" if no_history else None, "prompt": False if no_prompt else None}
    given = settings | {name: value for name, value in unlike.items() if value is not None}
    with refusing_flags():
        chosen = drafter_settings(with_flags(drafter, given)).drafter()
    with doing("reading"):
        recorded = read(trace)
    if references is None:
        rows = alone.acceptance_by_step(recorded, chosen, max_spec, steps, samples)
    else:
        rows = acceptance_by_references(recorded, chosen, max_spec, references, steps, samples)
    if record is not None:
        write(alone.record(recorded, chosen), record, provenance(recorded.table) | {"drafter": chosen.describe()})
    if as_json:
        click.echo(
            json.dumps({"schema_version": 1, "steps" if references is None else "references": rows}, allow_nan=False)
        )
        return
    for line in _lines(rows, shutil.get_terminal_size((PIPED, 24)).columns, chosen.lossless):
        click.echo(line)


def _lines(rows: list[dict[str, Any]], width: int, lossless: bool) -> list[str]:
    first, *names = rows[0]
    columns = [Column(name.replace("_", "\n"), [_shown(row[name]) for row in rows]) for name in names]
    return grid([Column(first, [marked(_shown(row[first]), lossless) for row in rows], number=False), *columns], width)


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _beside_references(no_history: bool, record: Path | None, settings: dict[str, Any]) -> str | None:
    """A flag that has no meaning beside --references."""
    given = {"--no-history": no_history, "--record": record is not None, "--window": settings["window"] is not None}
    return next((flag for flag, there in given.items() if there), None)


def _numbers(text: str | None) -> list[int] | None:
    """Read `0,1,5,15`: whole numbers, each once."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 7 for part in parts):
        raise click.BadParameter(f"{text!r} is not a list of numbers of siblings: write for example 0,1,5,15")
    return sorted({int(part) for part in parts})
