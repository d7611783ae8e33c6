"""`rolloutsim calibrate record`: a small RL run on this machine, every rollout of it recorded."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from simulator.cli.calibrate_kernels import require_torch
from simulator.cli.numbers import Count


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Trace to write; state goes to OUT.state.")
@click.option(
    "--save-model", type=click.Path(path_type=Path), help="Folder for the final policy, in Hugging Face's form."
)
@click.option("--prompts", type=Count(1), default=64, show_default=True, help="Prompts, all in every RL step.")
@click.option("--samples", type=Count(1), default=8, show_default=True, help="Rollouts of a prompt in a step.")
@click.option("--steps", type=Count(1), default=24, show_default=True, help="RL steps.")
@click.option("--max-tokens", type=Count(1), default=1024, show_default=True, help="Length at which a response is cut.")
@click.option(
    "--sft-steps",
    type=Count(0),
    default=400,
    show_default=True,
    help="Supervised steps before the first RL step.",
)
@click.option("--seed", type=Count(0), default=0, show_default=True)
@click.option("--threads", type=Count(1), default=2, show_default=True, help="CPU threads.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def record(out: Path, save_model: Path | None, **settings: Any) -> None:
    """Teach a small transformer to search, improve it by GRPO, and record every rollout.

    The same command goes on where a run was stopped, from the folder OUT.state; on a CPU it then records, to the last
    bit, what it would have without the stop. Progress goes to stderr.
    """
    require_torch()
    from calibration.model.setup import device_of
    from calibration.rl.record import record as run
    from calibration.rl.settings import Settings

    device_of(settings["device"])
    command = shlex.join(["rolloutsim", *sys.argv[1:]])
    run(Settings(**settings), out, command, lambda line: click.echo(line, err=True), save_model)
    click.echo(f"recorded {out}")
