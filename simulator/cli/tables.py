"""A result as tables on a terminal."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from simulator.cost.errors import Source, in_words
from simulator.report.grid import PIPED, Column, grid, marked
from simulator.results import Result

LEAST_MOVED = 1.001
"""What moves no makespan by a thousandth is not worth a word."""
Row = dict[str, Any]


def print_result(result: Result, out: Path | None) -> None:
    """Print what each policy, or each system, came to, and what a reader must know."""
    for line in _lines(result, shutil.get_terminal_size((PIPED, 24)).columns):
        click.echo(line)
    if out is not None:
        click.echo(f"tables and plots: {out}")


def _lines(result: Result, width: int) -> Iterator[str]:
    runs, about = result.runs.to_pylist(), result.about
    first = runs[0]
    alone = all(run["system"] == run["policy"] for run in runs) and not about["left_out"]
    yield (
        f"{about['trace']['path']}: {first['rollouts']:,} rollouts, {first['output_tokens']:,} tokens, "
        f"{first['rl_steps']} RL step(s)"
    )
    yield f"profile {about['profile']['name']}" + (f", drafter {first['drafter']}" if alone else "")
    yield from ["", *grid(_policies(runs) if alone else _systems(result, runs), width), ""]
    if any(run["stages"] for run in runs):
        yield from [*grid(_stages(result, runs), width), ""]
    for run in runs:
        if told := _served(run, bool(about["arrivals"])):
            yield f"{run['system']}: {told}"
        if told := _facts(run):
            yield f"{run['system']} {told}"
    if result.comparison:
        yield from [*result.comparison.text(width).split("\n"), ""]
    moving = {
        name for run in runs for name, ends in json.loads(run["errors"]).items() if max(ends) > LEAST_MOVED * min(ends)
    }
    yield f"90 % range: {'; '.join(in_words(Source(**one) for one in about['errors'] if one['name'] in moving))}"
    yield from (f"note: {warning}" for warning in about["warnings"])


def _names(heading: str, runs: list[Row]) -> Column:
    return Column(heading, [marked(run["system"], run["lossless"]) for run in runs], number=False)


def _policies(runs: list[Row]) -> list[Column]:
    """How the decode steps of each budget policy went."""
    several = runs[0]["rl_steps"] > 1
    return [
        _names("policy", runs),
        Column("makespan\ns", [f"{run['makespan_s']:.2f}" for run in runs]),
        Column("90 %\nrange s", [f"{run['makespan_low_s']:.2f}-{run['makespan_high_s']:.2f}" for run in runs]),
        Column("speed-up", [f"{run['speedup']:.3f}" for run in runs]),
        *([Column("by\nRL step", _known(runs, "step_speedup", ".3f"))] if several else []),
        Column("by\nrollout", _known(runs, "rollout_speedup", ".3f")),
        Column("decode\nsteps", [f"{run['decode_steps']:,}" for run in runs]),
        Column("mean live\nbatch", [f"{run['mean_live_batch']:.1f}" for run in runs]),
        Column("mean acc.\nlength", [f"{run['mean_acceptance_length']:.3f}" for run in runs]),
        Column("draft acc.\nrate", _known(runs, "draft_acceptance_rate", ".3f")),
        Column("wasted\ndrafts", [f"{run['wasted_tokens']:,}" for run in runs]),
        Column("straggler\ns", [f"{run['straggler_s']:.2f}" for run in runs]),
    ]


def _systems(result: Result, runs: list[Row]) -> list[Column]:
    """What a second of a GPU is worth under each system, and those that cannot be run here."""
    left_out = result.about["left_out"]
    ends = [f"{run['gpu_speedup_low']:.2f}-{run['gpu_speedup_high']:.2f}" for run in runs]
    numbers = [
        Column("speed-up", [f"{run['gpu_speedup']:.3f}" for run in runs]),
        Column("90 % range", ["baseline", *ends[1:]]),
        Column("samples\nper s", [f"{run['samples_per_s']:.3g}" for run in runs]),
        Column("RL step\ns", [f"{run['run_s'] / run['rl_steps']:,.2f}" for run in runs]),
        Column("rollout\ns", [f"{run['makespan_s'] / run['rl_steps']:,.2f}" for run in runs]),
        Column("idle\nGPU-s", [f"{run['idle_gpu_s']:,.0f}" for run in runs]),
        Column("stale-\nness", [f"{run['staleness']:.2f}" for run in runs]),
        Column("recomputed\ntokens", [f"{run['recomputed_tokens']:,}" for run in runs]),
        Column("mean acc.\nlength", [f"{run['mean_acceptance_length']:.2f}" for run in runs]),
    ]
    told = [
        *("lossless" if run["lossless"] else "lossy" for run in runs),
        *(f"left out: {why}" for why in left_out.values()),
    ]
    return [
        Column("system", [*(run["system"] for run in runs), *left_out], number=False),
        *(one._replace(cells=[*one.cells, *[""] * len(left_out)]) for one in numbers),
        Column("outputs", told, number=False),
    ]


def _stages(result: Result, runs: list[Row]) -> list[Column]:
    """Seconds of the run by what took them."""
    summed = result.rl_steps.group_by("system").aggregate([("reward_s", "sum"), ("trained", "sum")]).to_pylist()
    by_system = {row["system"]: row for row in summed}
    verified = any(run["verify_s"] or run["reused_tokens"] for run in runs)
    return [
        _names("system", runs),
        Column("RL\nsteps", [str(run["rl_steps"]) for run in runs]),
        Column("GPUs", [f"{run['gpus']:,}" for run in runs]),
        Column("run s", [f"{run['run_s']:,.2f}" for run in runs]),
        Column("rollout s", [f"{run['makespan_s']:,.2f}" for run in runs]),
        Column("reward s", [f"{by_system[run['system']]['reward_s_sum']:,.2f}" for run in runs]),
        Column("train s", [f"{run['train_s']:,.2f}" for run in runs]),
        Column("sync s", [f"{run['sync_s']:,.2f}" for run in runs]),
        Column("samples", [f"{by_system[run['system']]['trained_sum']:,}" for run in runs]),
        Column("carried", [f"{run['carried']:,}" for run in runs]),
        Column("at most\nstale", [str(run["max_staleness"]) for run in runs]),
        *([Column("verify s", [f"{run['verify_s']:,.2f}" for run in runs]),
           Column("reused\ntokens", [f"{run['reused_tokens']:,}" for run in runs])] if verified else []),
    ]  # fmt: skip


def _known(runs: list[Row], name: str, digits: str) -> list[str]:
    return ["-" if run[name] is None else f"{run[name]:{digits}}" for run in runs]


def _facts(run: Row) -> str:
    """What the policy says about itself, in the last RL step."""
    for step, facts in list(json.loads(run["facts"]).items())[-1:]:
        return f"in RL step {step}: {', '.join(f'{key} {_shown(value)}' for key, value in facts.items())}"
    return ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{key} {_shown(one)}' for key, one in value.items())})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _served(run: Row, arrivals: bool) -> str:
    """What a serving engine's log would say: latencies where rollouts arrive, and what KV blocks did."""
    names = [name for name in ("ttft", "tpot", "latency") if arrivals and run[f"{name}_s"] is not None]
    parts = [
        f"{name if name == 'latency' else name.upper()} {run[f'{name}_s']:.4g} s (p99 {run[f'{name}_p99_s']:.4g})"
        for name in names
    ]
    if run["preemptions"]:
        parts.append(f"{run['preemptions']:,} preemptions")
    if run["cached_tokens"]:
        parts.append(f"{run['cached_tokens']:,} tokens from the prefix cache")
    return ", ".join(parts)
