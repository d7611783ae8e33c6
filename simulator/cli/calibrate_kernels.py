"""`rolloutsim calibrate kernels`: measure what a model's operators cost on this machine, and write a profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.numbers import Count

if TYPE_CHECKING:
    from calibration.kernels.measure import Settings
    from simulator.cost.model import Profile

Command = Callable[..., Any]

NEEDS_TORCH = "torch is not installed, and calibration runs on it: pip install 'rolloutsim[calibration]'"


def require_torch() -> None:
    """Refuse to go on without torch."""
    from importlib.util import find_spec

    from traces.errors import InputError

    if find_spec("torch") is None:
        raise InputError(NEEDS_TORCH)


def machine_options(command: Command) -> Command:
    """Add the flags that say which decoder runs on what."""
    for option in reversed([
        click.option("--model", required=True, help="The model's config.json, or its name in the catalogue."),
        click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True),
        click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="[default: bfloat16, on a CPU float32]"),
        click.option("--threads", type=Count(1, 1024), help="CPU threads of torch [default: its own]."),
        click.option("--graphs/--no-graphs", default=True, show_default=True, help="CUDA graphs of steps that only decode."),
    ]):  # fmt: skip
        command = option(command)
    return command


def limit_options(command: Command) -> Command:
    """Add the flags that say what is measured of a model's kernels."""
    for option in reversed([
        click.option("--grid", type=click.Choice(["quick", "full"]), default="quick", show_default=True),
        click.option("--draft-model", help="A small model that drafts: its config.json or name."),
        click.option("--max-num-seqs", type=Count(), help="Most sequences [default: 512, on a CPU 64]."),
        click.option("--max-model-len", type=Count(), help="Longest context [default: 32768, on a CPU 1024, or the model's]."),
        click.option("--max-width", type=Count(), help="Most query tokens of a sequence [default: 33]."),
        click.option("--max-num-batched-tokens", type=Count(), help="Most tokens of a step [default: 8192, on a CPU 2048]."),
        click.option("--rounds", type=Count(1, 100), default=1, show_default=True,
                     help="Times that everything is measured: more where the machine has slow phases."),
        click.option("--seed", type=Count(0), default=0, show_default=True, help="Of weights and random orders."),
    ]):  # fmt: skip
        command = option(command)
    return command


def progress_of(doing: str) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """A bar over what is to be done, where stderr is a terminal."""

    def bar(things: Iterable[Any]) -> Iterator[Any]:
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        yield from track(list(things), doing, console=console, disable=not console.is_terminal)

    return bar


def use_threads(threads: int | None) -> None:
    """Let torch use so many CPU threads."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def kernel_settings(
    model: str, device: str, dtype: str | None, threads: int | None, graphs: bool, grid: Any, draft_model: str | None, seed: int,
    rounds: int, **limits: int | None,
) -> Settings:  # fmt: skip
    """What the flags of `machine_options` and `limit_options` ask for, on so many threads."""
    require_torch()
    from calibration.kernels.measure import Settings
    from simulator.catalogue import load_model

    use_threads(threads)
    draft = None if draft_model is None else load_model(draft_model)
    return Settings(load_model(model), model, device, dtype, grid, draft, graphs, seed, rounds, **limits)


@click.command()
@machine_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Profile to write, .parquet or .yaml.")
@limit_options
def kernels(out: Path, **asked: Any) -> None:
    """Measure a decoder's operators, verification attention and whole steps on this machine, and write a profile.

    Points are kept in OUT.journal.jsonl as they are measured: started again, a killed run goes on where it stopped.
    """
    settings = kernel_settings(**asked)
    from calibration.kernels.measure import measure

    for line in _lines(measure(settings, out, progress_of("measuring")), out):
        click.echo(line)


def _lines(profile: Profile, out: Path) -> Iterator[str]:
    from simulator.cli.profile_show import HELD_OUT, error_table, measured_blocks

    yield f"{profile.name}: {profile.model} on {profile.device}"
    for block in (error_table(HELD_OUT, profile.held_out), *measured_blocks(profile)):
        yield ""
        yield from block
    yield f"\nwrote {out}"
