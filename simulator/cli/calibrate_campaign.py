"""`rolloutsim calibrate campaign`: profile a model, decode rollouts on it, and hold the simulator to the clock, in one go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.calibrate_kernels import kernel_settings, limit_options, machine_options, progress_of
from simulator.cli.calibrate_truth import report
from simulator.cli.numbers import Count

if TYPE_CHECKING:
    from calibration.campaign import Place


@click.command()
@click.argument("trace", metavar="TRACE")
@machine_options
@limit_options
@click.option(
    "--step",
    type=Count(0),
    required=True,
    help="RL step to decode; those before it are the drafter's history.",
)
@click.option("--at", "places", multiple=True, metavar="LIVE[xCONTEXT]",
              help="Sequences at once, and KV tokens that each begins with [default: several]; repeatable.")  # fmt: skip
@click.option("--policy", "policies", multiple=True, help="Budget policy that is a table, repeatable [default: five].")
@click.option("--max-output-tokens", type=Count(1), default=256, show_default=True, help="Cut rollouts there.")
@click.option("--repeats", type=Count(1), default=2, show_default=True, help="Times that each policy is run.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the profile, ground truth and report."
)
def campaign(
    trace: str, step: int, places: tuple[str, ...], policies: tuple[str, ...], max_output_tokens: int, repeats: int, out: Path,
    **asked: Any,
) -> None:  # fmt: skip
    """Profile a model on this machine, decode the rollouts of TRACE on it under each policy, and compare with the simulation.

    What lies in --out already is kept: a killed campaign goes on where it stopped.
    """
    kernels = kernel_settings(**asked)
    from calibration.campaign import PLACES, POLICIES
    from calibration.campaign import campaign as run
    from traces.io import read

    found = run(
        kernels, read(trace), step, tuple(map(_place, places)) or PLACES[kernels.device], policies or POLICIES, out,
        max_output_tokens, repeats, " ".join(["rolloutsim", *sys.argv[1:]]), click.echo, progress_of("measuring"),
    )  # fmt: skip
    for line in report(
        found.profile, found.comparisons, found.verdicts, sorted(map(str, out.glob("truth-*.parquet"))), out
    ):
        click.echo(line)


def _place(text: str) -> Place:
    from calibration.campaign import Place

    live, cross, context = text.partition("x")
    if not live.isdecimal() or not int(live) or (cross and (not context.isdecimal() or not int(context))):
        raise click.BadParameter(f"--at {text!r}: write 64, or 64x4096")
    return Place(int(live), int(context) if cross else None)
