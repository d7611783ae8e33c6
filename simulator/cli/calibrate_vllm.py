"""`rolloutsim calibrate vllm`: a trace's prompts on a real engine, every step recorded."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from simulator.cli.flags import Command, parse_limits
from simulator.cli.numbers import Count, Finite

if TYPE_CHECKING:
    from traces.trace import Trace

OURS = ("max_num_seqs", "speculative_config", "skip_tokenizer_init", "model")
STARTED = {"python": "--python", "one_at_a_time": "--one-at-a-time"}
"""Flags that are about engines which are started."""


def engine_options(command: Command) -> Command:
    """Add the flags that say what runs: model, speculation and settings, started or attached to."""
    for option in reversed([
        click.option("--model", required=True, help="Folder of the model, or a name that vLLM, or the server, knows."),
        click.option("--speculative-config", "configurations", multiple=True, required=True, metavar="none|[NAME=]JSON",
                     help="vLLM's speculative_config; repeatable, configurations take turns. With --attach the server's own."),
        click.option("--engine", multiple=True, metavar="KEY=VALUE",
                     help="Argument of vLLM's EngineArgs; repeatable. With --attach what the server does not tell of itself."),
        click.option("--python", default=".venv-vllm/bin/python", show_default=True, help="The Python that has vLLM."),
        click.option("--one-at-a-time", is_flag=True,
                     help="Start an engine when the last has ended: where memory holds one alone."),
        click.option("--attach", metavar="URL", help="Start nothing: send the prompts to the vLLM server there."),
    ]):  # fmt: skip
        command = option(command)
    return command


def sampling_options(command: Command) -> Command:
    """Add the flags that say which prompts are run, and how they are sampled."""
    for option in reversed([
        click.option("--step", type=Count(0), help="RL step whose prompts are run [default: the last]."),
        click.option("--rollouts", type=Count(1), help="The first so many of them [default: all]."),
        click.option("--max-tokens", type=Count(1), default=1024, show_default=True, help="Length to cut at."),
        click.option("--temperature", type=Finite(0), default=1.0, show_default=True),
        click.option("--stop-token-id", type=Count(0), multiple=True, help="Token that ends a rollout; repeatable."),
        click.option("--seed", type=Count(0), default=0, show_default=True, help="Of the first rollout's sampling."),
    ]):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("trace", metavar="TRACE")
@engine_options
@sampling_options
@click.option("--slots", type=Count(1), multiple=True, default=(32,), show_default=True,
              help="max_num_seqs, or with --attach requests in flight; repeatable.")  # fmt: skip
@click.option("--repeats", type=Count(1), default=1, show_default=True, help="Times that each is run.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for runs; a stopped one goes on.")
def vllm(
    trace: str, model: str, configurations: tuple[str, ...], engine: tuple[str, ...], python: str, one_at_a_time: bool,
    attach: str | None, step: int | None, rollouts: int | None, slots: tuple[int, ...], repeats: int, out: Path, **sampling: Any,
) -> None:  # fmt: skip
    """Run a trace's prompts on vLLM under each --speculative-config, and record every step of its scheduler.

    Runs take turns and are kept as they are done: the same command goes on where it was stopped. `rolloutsim validate OUT
    --steps` then holds the simulator to them; each run's rollouts are a trace for `rolloutsim replay`.

    With --attach they go to a server that was started with the one --speculative-config, and what its API gives is recorded:
    tokens, times of each request, and what was drafted and accepted in sum, for `rolloutsim validate` with a profile.
    """
    from calibration.live import attached, recording
    from traces.io import read

    _check(attach, configurations, slots)
    found = read(trace)
    rows = _rows(found, step)[:rollouts]
    asked = recording.Asked(
        found, rows, _named(configurations), {"model": model, **_engine(engine, attach)}, _sampling(**sampling),
        sorted(set(slots)), repeats, python, not one_at_a_time, attach is not None,
    )  # fmt: skip
    command = shlex.join(["rolloutsim", *sys.argv[1:]])
    if attach is None:
        recording.record(asked, out, command, _tell)
    else:
        attached.record(asked, attach, out, command, _tell)
    click.echo(f"recorded {out}")


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _check(attach: str | None, configurations: tuple[str, ...], slots: tuple[int, ...]) -> None:
    """Refuse flags that another one silences, and more slots than an engine has."""
    from simulator.limits import MAX_NUM_SEQS

    if attach is not None:
        source = click.get_current_context().get_parameter_source
        if given := [flag for name, flag in STARTED.items() if source(name) is ParameterSource.COMMANDLINE]:
            raise click.UsageError(f"{given[0]}: does not go with --attach, which starts nothing: leave it out")
        if len(configurations) > 1:
            raise click.UsageError(
                "--speculative-config: a server has one: give --attach one, and --out a folder for each"
            )
    if most := [one for one in slots if one > (MAX_NUM_SEQS.most or one)]:
        raise click.UsageError(f"--slots {most[0]}: give at most {MAX_NUM_SEQS.most}")


def _engine(engine: tuple[str, ...], attach: str | None) -> dict[str, Any]:
    """Arguments of EngineArgs, but for those with an option of their own; a server's max_num_seqs is no number of slots."""
    given = parse_limits(engine, {})
    if taken := [key for key in given if key in OURS and not (attach is not None and key == "max_num_seqs")]:
        raise click.UsageError(f"--engine {taken[0]}: has an option of its own: see --help")
    return given


def _rows(trace: Trace, step: int | None) -> list[int]:
    """Rows of an RL step, the last if none is named, with prompts to give an engine."""
    from traces.errors import InputError

    if "prompt_token_ids" not in trace.table.column_names:
        raise InputError(f"{trace.source}: has no prompt_token_ids, which the engine is given: record them")
    step = trace.steps[-1] if step is None else step
    rows = [row for row, at in enumerate(trace.step.tolist()) if at == step]
    if not rows:
        known = f"{trace.steps[0]} to {trace.steps[-1]}"
        raise InputError(f"{trace.source}: has no RL step {step}: use one of {known}")
    return rows


def _sampling(max_tokens: int, temperature: float, stop_token_id: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Arguments of vLLM's SamplingParams."""
    sampling: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens, "detokenize": False}
    if temperature > 0:
        sampling["seed"] = seed
    if stop_token_id:
        sampling["stop_token_ids"] = list(stop_token_id)
    return sampling


def _named(texts: tuple[str, ...]) -> dict[str, dict[str, Any] | None]:
    """Configurations by name: what stands before the =, else the method and how many tokens it drafts."""
    found: dict[str, dict[str, Any] | None] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or name.lstrip().startswith("{"):
            name, rest = "", text
        config = None if rest.strip() == "none" else _parsed(rest)
        if not name:
            name = "none" if config is None else f"{config.get('method')}-{config.get('num_speculative_tokens')}"
        if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
            raise click.UsageError(f"--speculative-config {text!r:.80}: name it with letters, digits, - and _")
        if name in found:
            raise click.UsageError(f"--speculative-config {text!r:.80}: {name} is there twice: write NAME=JSON")
        found[name] = config
    return found


def _parsed(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--speculative-config {text!r:.80}: is not JSON ({error}): or write none") from None
    if not isinstance(config, dict) or "method" not in config:
        raise click.UsageError(f"--speculative-config {text!r:.80}: is no object with a method, as vLLM takes it")
    return config
