"""The page's tables: the figures of a result as text, to the digits that the command line shows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simulator.report.chosen import of_systems
from simulator.results import Result

Row = Mapping[str, Any]

MOST_STRAGGLERS = 12
MOST_RL_STEPS = 200
NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table. heads: column names; words: how many columns on the left are words; marked: rows that stand out."""

    caption: str
    heads: list[str]
    rows: list[list[str]]
    words: int = 1
    marked: frozenset[int] = frozenset()


def comparison(runs: Sequence[Row], best: int | None) -> Table:
    """What each policy's decode steps came to."""
    columns = {
        "policy": lambda run: run["system"],
        "makespan, s": lambda run: f"{run['makespan_s']:.2f}",
        "90 % range, s": lambda run: f"{run['makespan_low_s']:.2f}–{run['makespan_high_s']:.2f}",
        "speed-up": lambda run: f"{run['speedup']:.3f}",
        "mean acceptance length": lambda run: _known(run["mean_acceptance_length"], ".3f"),
        "draft acceptance rate": lambda run: _known(run["draft_acceptance_rate"], ".3f"),
        "wasted drafts": lambda run: f"{run['wasted_tokens']:,}",
        "decode steps": lambda run: f"{run['decode_steps']:,}",
        "mean live batch": lambda run: _known(run["mean_live_batch"], ".1f"),
        "stragglers alone, s": lambda run: f"{run['straggler_s']:.2f}",
        "outputs": _outputs,
    }
    return _by_run("Policies", columns | _when_used(runs), runs, best)


def systems(runs: Sequence[Row], best: int | None) -> Table:
    """What a second of a GPU is worth under each system, and what took the time."""
    columns = {
        "system": lambda run: run["system"],
        "speed-up": lambda run: f"{run['gpu_speedup']:.3f}",
        "90 % range": lambda run: NONE if run is runs[0] else f"{run['gpu_speedup_low']:.2f}–{run['gpu_speedup_high']:.2f}",
        "samples a second": lambda run: f"{run['samples_per_s']:.3g}",
        "GPUs": lambda run: f"{run['gpus']:,}",
        "RL step, s": lambda run: f"{run['run_s'] / run['rl_steps']:,.2f}",
        "rollout, s": lambda run: f"{run['makespan_s'] / run['rl_steps']:,.2f}",
        "train, s": lambda run: f"{run['train_s'] / run['rl_steps']:,.2f}",
        "sync, s": lambda run: f"{run['sync_s'] / run['rl_steps']:,.2f}",
        "idle, GPU-s": lambda run: f"{run['idle_gpu_s']:,.0f}",
        "staleness": lambda run: f"{run['staleness']:.2f}",
        "mean acceptance length": lambda run: _known(run["mean_acceptance_length"], ".2f"),
        "outputs": _outputs,
    }  # fmt: skip
    caption = "Systems: speed-up is samples a GPU-second over the baseline's; seconds are means over RL steps"
    return _by_run(caption, columns | _when_used(runs), runs, best)


def verdicts(result: Result) -> Table | None:
    """Speed-ups with intervals, as `compare` found them."""
    if result.comparison is None:
        return None
    rows = [
        [row["policy"], f"{row['speedup']:.3f}", _between(row["low"], row["high"]),
         _between(row["profile_low"], row["profile_high"]), _known(row["closed"], ".0%"), row["verdict"]]
        for row in result.comparison.table.to_pylist()
    ]  # fmt: skip
    base = result.comparison.table["baseline"][0].as_py()
    heads = ["policy", "speed-up", "95 % interval over prompts", "90 % range, costs off", "gap closed", "verdict"]
    return Table(f"Held against {base}", heads, rows)


def latencies(runs: Sequence[Row]) -> Table:
    """What a server's log would say."""
    names = {"ttft": "time to first token", "tpot": "time per output token", "latency": "arrival to completion"}
    heads = ["system", *(f"{words}, {which}, s" for words in names.values() for which in ("mean", "p99"))]
    rows = [
        [run["system"], *(_known(run[f"{name}{end}_s"], ".4g") for name in names for end in ("", "_p99"))]
        for run in runs
    ]
    return Table("Latencies", heads, rows)


def rl_steps(result: Result, runs: Sequence[Row]) -> Table | None:
    """Seconds from update to update, RL steps down, systems across; nothing for one RL step."""
    names = [run["system"] for run in runs]
    found = {(row["step"], row["system"]): row["step_s"]
             for row in result.rl_steps.select(["step", "system", "step_s"]).to_pylist()}  # fmt: skip
    steps = sorted({step for step, _ in found})
    if len(steps) < 2:
        return None
    rows = [[str(step), *(_known(found.get((step, name)), ",.2f") for name in names)] for step in steps[:MOST_RL_STEPS]]
    cut = f"; the first {MOST_RL_STEPS} of {len(steps):,}" if len(steps) > MOST_RL_STEPS else ""
    return Table(f"Seconds from update to update{cut}", ["RL step", *names], rows)


def operators(seconds: Mapping[str, Mapping[str, float]]) -> Table:
    """Seconds and shares of decode steps by system and operator, every one."""
    rows = [
        [system, operator, f"{one:.2f}", f"{one / sum(of.values()):.1%}"]
        for system, of in seconds.items() for operator, one in sorted(of.items(), key=lambda item: -item[1])
    ]  # fmt: skip
    return Table("Seconds of decode steps by operator", ["system", "operator", "seconds", "share"], rows, 2)


def stragglers(result: Result, runs: Sequence[Row]) -> Table:
    """How many rollouts finish in the last tenth of the makespan, and what the time costs in which they are alone."""
    table = result.rollouts.group_by("system").aggregate([("straggler", "sum"), ("output_tokens", "mean")])
    found = {row["system"]: row for row in table.to_pylist()}
    rows = []
    for run in runs:
        of, alone_s = found[run["system"]], run["straggler_s"]
        rows.append([run["system"], f"{of['straggler_sum']:,} of {run['rollouts']:,}", f"{alone_s:.2f}",
                     f"{alone_s / run['makespan_s']:.1%}" if run["makespan_s"] else NONE,
                     f"{alone_s * run['gpus']:,.1f}"])  # fmt: skip
    heads = ["system", "stragglers", "alone, s", "of the makespan", "GPU-seconds meanwhile"]
    return Table("What finishing stragglers costs", heads, rows)


def last_rollouts(result: Result, base: str, other: str | None) -> Table:
    """The rollouts that ended latest within their RL steps under the baseline, and when they ended under the other system."""
    columns = ["step", "prompt_id", "sample", "output_tokens", "finished_s", "straggler"]
    mine = of_systems(result.rollouts, [base]).select(columns)
    median = float(np.median(mine["output_tokens"].to_numpy())) if mine.num_rows else 0.0
    order = pc.sort_indices(mine, sort_keys=[("straggler", "descending"), ("output_tokens", "descending")])
    last = mine.take(order[:MOST_STRAGGLERS]).to_pylist()
    theirs: dict[tuple[Any, ...], float] = {}
    if other is not None:
        ids = pa.array([row["prompt_id"] for row in last], pa.string())
        table = of_systems(result.rollouts, [other]).select(columns)
        for row in table.filter(pc.is_in(table["prompt_id"], ids)).to_pylist():
            theirs[row["step"], row["prompt_id"], row["sample"]] = row["finished_s"]
    rows = [
        [row["prompt_id"], f"{row['sample']}", f"{row['step']}", f"{row['output_tokens']:,}",
         f"{row['output_tokens'] / median:.1f}×" if median else NONE, f"{row['finished_s']:.2f}",
         *([_known(theirs.get((row["step"], row["prompt_id"], row["sample"])), ".2f")] if other is not None else [])]
        for row in last if row["straggler"]
    ]  # fmt: skip
    heads = ["prompt", "sample", "RL step", "response tokens", "of the median", f"done under {base}, s"]
    more = [] if other is None else [f"under {other}, s"]
    return Table(f"The longest stragglers under {base}, seconds since their RL step began", [*heads, *more], rows)


def facts(runs: Sequence[Row]) -> Table | None:
    """What policies say of themselves, in the last RL step that they speak of."""
    rows = []
    for run in runs:
        for step, of in list(json.loads(run["facts"]).items())[-1:]:
            rows.append([run["system"], step, ", ".join(f"{key} {_shown(value)}" for key, value in of.items())])
    return Table("What policies say of themselves", ["system", "RL step", "it says"], rows, 3) if rows else None


def provenance(result: Result) -> Iterator[tuple[str, str]]:
    """What made this result, each with its name."""
    about = result.about
    trace, profile = about["trace"], about["profile"]
    yield "rolloutsim", about["rolloutsim"]
    yield "trace", trace["path"]
    yield "trace, SHA-256", trace["sha256"] or "not read from a file"
    yield "cost profile", profile["name"]
    yield "profile, source", profile["source"]
    yield "profile, SHA-256", profile["sha256"] or "not read from a file"
    yield "seed", str(about["seed"])


def _by_run(caption: str, columns: Mapping[str, Any], runs: Sequence[Row], best: int | None) -> Table:
    rows = [[column(run) for column in columns.values()] for run in runs]
    return Table(caption, list(columns), rows, marked=frozenset() if best is None else frozenset({best}))


def _when_used(runs: Sequence[Row]) -> dict[str, Any]:
    """Columns of what most engines do not do here."""
    words = {"preemptions": "preemptions", "cached_tokens": "tokens from the prefix cache", "recomputed_tokens":
             "recomputed tokens", "reused_tokens": "reused tokens", "carried": "carried rollouts"}  # fmt: skip
    return {
        told: lambda run, name=name: f"{run[name]:,}" for name, told in words.items() if any(run[name] for run in runs)
    }


def _outputs(run: Row) -> str:
    return "lossless" if run["lossless"] else "lossy"


def _known(value: float | None, how: str) -> str:
    return NONE if value is None or value != value else format(value, how)


def _between(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"{low:.3f}–{high:.3f}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{key} {_shown(one)}' for key, one in value.items())})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
