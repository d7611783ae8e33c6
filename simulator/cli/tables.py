"""A result as tables on a terminal."""

import json
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulator.cost.errors import Source, in_words
from simulator.results import Result

LEAST_MOVED = 1.001
"""What moves no makespan by a thousandth is not worth a word."""
Row = dict[str, Any]


def print_result(result: Result, out: Path | None) -> None:
    """Print what each policy, or each system, came to, and what a reader must know."""
    runs, about = result.runs.to_pylist(), result.about
    console = Console(width=max(Console().width, 132), highlight=False, markup=False)
    first = runs[0]
    alone = all(run["system"] == run["policy"] for run in runs) and not about["left_out"]
    console.print(
        f"{about['trace']['path']}: {first['rollouts']:,} rollouts, {first['output_tokens']:,} tokens, "
        f"{first['rl_steps']} RL step(s)\nprofile {about['profile']['name']}"
        + (f", drafter {first['drafter']}" if alone else "")
    )
    console.print(_policies(runs) if alone else _systems(result, runs))
    if any(run["stages"] for run in runs):
        console.print(_stages(result, runs))
    for run in runs:
        if told := _served(run, bool(about["arrivals"])):
            console.print(f"{run['system']}: {told}", soft_wrap=True)
        if told := _facts(run):
            console.print(f"{run['system']} {told}", soft_wrap=True)
    if result.comparison:
        console.print(result.comparison.text() + "\n", soft_wrap=True)
    moving = {
        name for run in runs for name, ends in json.loads(run["errors"]).items() if max(ends) > LEAST_MOVED * min(ends)
    }
    sources = in_words(Source(**one) for one in about["errors"] if one["name"] in moving)
    console.print(f"90 % range: {'; '.join(sources)}", soft_wrap=True)
    for warning in about["warnings"]:
        console.print(f"note: {warning}", soft_wrap=True)
    if out is not None:
        click.echo(f"tables and plots: {out}")


def _grid(headings: dict[str, str]) -> Table:
    """A table with these headings, each `left` or `right`."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, justify in headings.items():
        grid.add_column(heading, justify="left" if justify == "left" else "right", no_wrap=True)
    return grid


def _policies(runs: list[Row]) -> Table:
    """How the decode steps of each budget policy went."""
    names = ("makespan s", "90 %\nrange s", "speed-up", "decode\nsteps", "mean live\nbatch", "mean acc.\nlength",
             "draft acc.\nrate", "wasted\ndrafts", "straggler s")  # fmt: skip
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("policy", *names):
        grid.add_column(heading, justify="left" if heading == "policy" else "right", no_wrap=True)
    for run in runs:
        rate = run["draft_acceptance_rate"]
        grid.add_row(
            Text(run["system"]), f"{run['makespan_s']:.2f}", f"{run['makespan_low_s']:.2f}-{run['makespan_high_s']:.2f}",
            f"{run['speedup']:.3f}", f"{run['decode_steps']:,}",
            f"{run['mean_live_batch']:.1f}", f"{run['mean_acceptance_length']:.3f}",
            "-" if rate is None else f"{rate:.3f}", f"{run['wasted_tokens']:,}", f"{run['straggler_s']:.2f}",
        )  # fmt: skip
    return grid


def _systems(result: Result, runs: list[Row]) -> Table:
    """What a second of a GPU is worth under each system, and those that cannot be run here."""
    names = ("speed-up", "90 % range", "samples\nper s", "RL step\ns", "rollout\ns", "idle\nGPU-s", "stale-\nness",
             "recomputed\ntokens", "mean acc.\nlength")  # fmt: skip
    grid = _grid({"system": "left", **dict.fromkeys(names, "right")})
    grid.add_column("outputs", min_width=len("left out: no token ids"), overflow="fold")
    for run in runs:
        steps, base = run["rl_steps"], run is runs[0]
        ends = "baseline" if base else f"{run['gpu_speedup_low']:.2f}-{run['gpu_speedup_high']:.2f}"
        grid.add_row(
            Text(run["system"]), f"{run['gpu_speedup']:.3f}", ends, f"{run['samples_per_s']:.3g}",
            f"{run['run_s'] / steps:,.2f}", f"{run['makespan_s'] / steps:,.2f}", f"{run['idle_gpu_s']:,.0f}",
            f"{run['staleness']:.2f}", f"{run['recomputed_tokens']:,}", f"{run['mean_acceptance_length']:.2f}",
            "lossless" if run["lossless"] else "lossy",
        )  # fmt: skip
    for name, why in result.about["left_out"].items():
        grid.add_row(Text(name), *[""] * len(names), Text(f"left out: {why}"))
    return grid


def _stages(result: Result, runs: list[Row]) -> Table:
    """Seconds of the run by what took them."""
    names = (
        "RL\nsteps",
        "GPUs",
        "run s",
        "rollout s",
        "reward s",
        "train s",
        "sync s",
        "samples",
        "carried",
        "at most\nstale",
    )
    verified = any(run["verify_s"] or run["reused_tokens"] for run in runs)
    more = ("verify s", "reused\ntokens") if verified else ()
    grid = _grid({"system": "left", **dict.fromkeys((*names, *more), "right")})
    reward_s = result.rl_steps.group_by("system").aggregate([("reward_s", "sum"), ("trained", "sum")]).to_pylist()
    by_system = {row["system"]: row for row in reward_s}
    for run in runs:
        summed = by_system[run["system"]]
        grid.add_row(
            Text(run["system"]), str(run["rl_steps"]), f"{run['gpus']:,}", f"{run['run_s']:,.2f}", f"{run['makespan_s']:,.2f}",
            f"{summed['reward_s_sum']:,.2f}", f"{run['train_s']:,.2f}", f"{run['sync_s']:,.2f}", f"{summed['trained_sum']:,}",
            f"{run['carried']:,}", str(run["max_staleness"]),
            *([f"{run['verify_s']:,.2f}", f"{run['reused_tokens']:,}"] if verified else []),
        )  # fmt: skip
    return grid


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
