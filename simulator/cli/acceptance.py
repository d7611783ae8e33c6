"""`rolloutsim acceptance`: what a drafter proposes on recorded rollouts and what of it is accepted; no cost model."""

import json
from pathlib import Path
from typing import Any

import click

from simulator.cli.flags import drafter_option, drafter_options, parse_steps, refusing_flags, with_flags
from simulator.limits import LARGEST_BUDGET


@click.command()
@click.argument("trace", metavar="TRACE")
@drafter_option
@drafter_options
@click.option(
    "--max-spec",
    type=click.IntRange(0, LARGEST_BUDGET),
    default=LARGEST_BUDGET,
    help="Draft tokens per decode step [default: unlimited].",
)
@click.option(
    "--samples", type=click.IntRange(1), help="Replay only the first N samples of each prompt; history stays whole."
)
@click.option(
    "--no-prompt", is_flag=True, help="Start from an empty context: the first token is emitted without a draft."
)
@click.option("--no-history", is_flag=True, help="Draft from the rollout's own output alone.")
@click.option(
    "--steps", callback=lambda c, p, v: parse_steps(v), help="RL steps to replay, such as 1 or 2,4-7 [default: all]."
)
@click.option("--record", type=click.Path(path_type=Path), metavar="FILE",
              help="Also write the trace with what is accepted and drafted at each token, for drafter `recorded`.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def acceptance(
    trace: str, drafter: dict[str, Any], max_spec: int, samples: int | None, no_prompt: bool, no_history: bool,
    steps: list[int] | None, record: Path | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Replay every rollout of TRACE alone, each decode step with the same budget, and count what is accepted.

    Each RL step is drafted from the --window recorded steps before it, frozen, and from the rollout's own output.
    """
    from simulator.drafting import alone
    from simulator.scenario import drafter_settings
    from traces.io import provenance, read, write

    if no_history and settings["scope"] is not None:
        raise click.UsageError(f"--no-history and --scope {settings['scope']} contradict each other: give one of them")
    unlike = {"scope": "request" if no_history else None, "prompt": False if no_prompt else None}
    given = settings | {name: value for name, value in unlike.items() if value is not None}
    with refusing_flags():
        chosen = drafter_settings(with_flags(drafter, given)).drafter()
    recorded = read(trace)
    rows = alone.acceptance_by_step(recorded, chosen, max_spec, steps, samples)
    if record is not None:
        write(alone.record(recorded, chosen), record, provenance(recorded.table) | {"drafter": chosen.describe()})
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "steps": rows}, allow_nan=False))
        return
    names = list(rows[0])
    lines = [names, *([_shown(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    for line in lines:
        click.echo("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
