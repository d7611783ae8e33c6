"""`rolloutsim calibrate vllm`: a trace's prompts on a real engine, every step recorded."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from simulator.cli.flags import parse_limits

OURS = ("max_num_seqs", "speculative_config", "skip_tokenizer_init", "model")


@click.command()
@click.argument("trace", metavar="TRACE")
@click.option("--model", required=True, help="Folder of the model, or a name that vLLM knows.")
@click.option(
    "--speculative-config", "configurations", multiple=True, required=True, metavar="none|[NAME=]JSON",
    help="vLLM's speculative_config; repeatable, configurations take turns.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for runs; a stopped one goes on.")
@click.option("--python", default=".venv-vllm/bin/python", show_default=True, help="The Python that has vLLM.")
@click.option("--slots", type=click.IntRange(1), multiple=True, default=(32,), show_default=True, help="max_num_seqs.")
@click.option("--step", type=click.IntRange(0), help="RL step whose prompts are run [default: the last].")
@click.option("--rollouts", type=click.IntRange(1), help="The first so many of them [default: all].")
@click.option("--max-tokens", type=click.IntRange(1), default=1024, show_default=True, help="Length to cut at.")
@click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True)
@click.option("--stop-token-id", type=click.IntRange(0), multiple=True, help="Token that ends a rollout; repeatable.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first rollout's sampling.")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Times that each is run.")
@click.option("--engine", multiple=True, metavar="KEY=VALUE", help="Argument of vLLM's EngineArgs; repeatable.")
@click.option(
    "--one-at-a-time", is_flag=True, help="Start an engine when the last has ended: where memory holds one alone."
)
def vllm(
    trace: str, model: str, configurations: tuple[str, ...], out: Path, python: str, slots: tuple[int, ...], step: int | None,
    rollouts: int | None, max_tokens: int, temperature: float, stop_token_id: tuple[int, ...], seed: int, repeats: int,
    engine: tuple[str, ...], one_at_a_time: bool,
) -> None:  # fmt: skip
    """Run a trace's prompts on vLLM under each --speculative-config, and record every step of its scheduler.

    Runs take turns and are kept as they are done: the same command goes on where it was stopped. `rolloutsim validate OUT
    --steps` then holds the simulator to them; each run's rollouts are a trace for `rolloutsim replay`.
    """
    from calibration.live.recording import Asked, record
    from simulator.limits import MAX_NUM_SEQS
    from traces.errors import InputError
    from traces.io import read

    given = parse_limits(engine, {})
    if taken := [key for key in given if key in OURS]:
        raise click.UsageError(f"--engine {taken[0]}: has an option of its own: see --help")
    if most := [one for one in slots if one > (MAX_NUM_SEQS.most or one)]:
        raise click.UsageError(f"--slots {most[0]}: give at most {MAX_NUM_SEQS.most}")
    found = read(trace)
    if "prompt_token_ids" not in found.table.column_names:
        raise InputError(f"{found.source}: has no prompt_token_ids, which the engine is given: record them")
    step = found.steps[-1] if step is None else step
    rows = [row for row, at in enumerate(found.step.tolist()) if at == step][:rollouts]
    if not rows:
        known = f"{found.steps[0]} to {found.steps[-1]}"
        raise InputError(f"{found.source}: has no RL step {step}: use one of {known}")
    sampling: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens, "detokenize": False}
    if temperature > 0:
        sampling["seed"] = seed
    if stop_token_id:
        sampling["stop_token_ids"] = list(stop_token_id)
    asked = Asked(
        found, rows, _named(configurations), {"model": model, **given}, sampling, sorted(set(slots)), repeats, python,
        not one_at_a_time,
    )  # fmt: skip
    command = shlex.join(["rolloutsim", *sys.argv[1:]])
    record(asked, out, command, lambda line: click.echo(line, err=True))
    click.echo(f"recorded {out}")


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
