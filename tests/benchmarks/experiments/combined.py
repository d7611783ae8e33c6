"""Parts of several systems in one: the best of all combinations on half of the RL steps, held against `sync` on the others.

On the recording in traces/data, Qwen3-8B on H100 estimated, 4 replicas of 32 slots, so that four of an RL step's rollouts share a
slot; training assumed from FLOPs. RL steps 4 to 13 choose, 14 to 23 judge.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import yaml

from simulator import Scenario, run
from simulator.results import Result

TRACE = "traces/data/countdown.parquet"
SEARCHED, JUDGED = list(range(4, 14)), list(range(14, 24))
SUFFIX = {"kind": "suffix", "scope": "problem", "window": 16}
DRAFTS: dict[str, dict[str, Any]] = {
    "no drafts": {"drafter": {"kind": "none"}, "policy": "none"},
    "fixed:8": {"drafter": SUFFIX, "policy": "fixed:8"},
    "das": {"drafter": SUFFIX, "policy": "das"},
    "seer": {"drafter": SUFFIX, "policy": "seer"},
}
PLACEMENTS = (None, "longest_first", "context:stay=128,kv=pull", "ranked:order=alternate")
LOOPS = ("sync", "one_step_async", "partial:share=1.5")


def combinations() -> Iterator[dict[str, Any]]:
    """Every way to put drafts, a placement and a loop together."""
    for (name, drafts), placement, loop in product(DRAFTS.items(), PLACEMENTS, LOOPS):
        yield {"name": f"{name}, {placement or 'shared'}, {loop}", **drafts, "placement": placement, "loop": loop}


def compared(systems: list[Any], steps: list[int]) -> Result:
    """`sync` and these systems on some RL steps."""
    scenario = Scenario(
        trace=TRACE, model="qwen3-8b", device="h100", systems=[{"name": "sync", **DRAFTS["no drafts"]}, *systems],
        stages=("log_probs", "update", "sync"), steps=steps, engine={"max_num_seqs": 32, "replicas": 4},
    )  # type: ignore[arg-type]  # fmt: skip
    return run(scenario)


def rows(result: Result) -> list[dict[str, Any]]:
    """What came of each, the best first."""
    return sorted(result.runs.to_pylist(), key=lambda row: -row["gpu_speedup"])


def main() -> None:
    systems = [*combinations()]
    searched = rows(compared(systems, SEARCHED))
    print(f"{len(systems)} combinations on RL steps {SEARCHED[0]} to {SEARCHED[-1]}, the best five:")
    for row in searched[:5]:
        print(f"  {row['gpu_speedup']:.3f}  {row['system']}")
    by_name = {one["name"]: one for one in systems}
    best = by_name[searched[0]["system"]]
    print(yaml.safe_dump({key: value for key, value in best.items() if value is not None}, sort_keys=False))
    singles = [by_name[f"{drafts}, shared, sync"] for drafts in DRAFTS if drafts != "no drafts"]
    print(
        f"| RL steps {JUDGED[0]} to {JUDGED[-1]} | speed-up | 90 % range | rollout s | RL step s | staleness |\n|{'---|' * 6}"
    )
    for row in rows(compared([best, *(one for one in singles if one is not best)], JUDGED)):
        steps = row["rl_steps"]
        ends = f"{row['gpu_speedup_low']:.2f} to {row['gpu_speedup_high']:.2f}"
        print(f"| {row['system']} | {row['gpu_speedup']:.3f} | {ends} | {row['makespan_s'] / steps:.2f} | "
              f"{row['run_s'] / steps:.2f} | {row['staleness']:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
