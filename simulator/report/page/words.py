"""The verdict of a run in words, and what a reader must know besides the figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.caveats import assumed
from simulator.cost.errors import Source, in_words
from simulator.results import Result

Row = Mapping[str, Any]

SAME = 0.005
"""Speed-ups closer to 1 than this make no difference in words."""
MUCH = 0.1
"""From this share of decoding time on, extrapolated costs are told with the verdict."""


@dataclass(frozen=True)
class Verdict:
    """The answer in a line, what it rests on, and which run it names (its place), if any beats the baseline."""

    headline: str
    lines: list[str]
    best: int | None


def of_policies(result: Result) -> bool:
    """Whether budget policies are compared by makespan, not whole systems by what a GPU-second yields."""
    runs = result.runs.to_pylist()
    alone = all(run["system"] == run["policy"] for run in runs)
    return alone and not result.about["left_out"] and not any(run["stages"] for run in runs)


def verdict(result: Result) -> Verdict:
    """What the run says: the fastest against the first named, how sure that is, and what would settle it."""
    runs = result.runs.to_pylist()
    first, policies = runs[0], of_policies(result)
    if len(runs) == 1:
        taken = f"{first['makespan_s']:,.2f} s" if policies else f"{first['run_s']:,.2f} s"
        told = "Nothing to compare with: name a second policy or system to learn whether it is faster."
        return Verdict(f"{first['system']} takes {taken}", [told, *_told(result, first)], None)
    ratio = "speedup" if policies else "gpu_speedup"
    place = _fastest(runs, ratio)
    best = runs[place]
    low, high = best["gpu_speedup_low"], best["gpu_speedup_high"]
    than = f"{best[ratio]:.2f} times as {'fast' if policies else 'many samples a GPU-second'} as {first['system']}"
    span = f"{low:.2f} to {high:.2f} times"
    if best[ratio] < 1 + SAME:
        word = "makes no difference" if best[ratio] > 1 - SAME else "is slower"
        head = f"Nothing beats {first['system']}"
        lines = [f"The fastest other, {best['system']}, {word}: {than}."]
    else:
        head = f"{best['system']}: {than}{_doubt(result, best)}"
        lines = [_sure(low, span, policies)]
        if policies:
            lines.insert(0, f"{first['makespan_s']:,.2f} s become {best['makespan_s']:,.2f} s.")
    lines += _lossy(runs, place, ratio)
    lines += _chance(result, best) if policies else []
    return Verdict(head, lines + _told(result, best), place if best[ratio] >= 1 + SAME else None)


def _sure(low: float, span: str, policies: bool) -> str:
    off = "costs may be off" if policies else "costs may be off and RL steps differ"
    if low > 1:
        return f"As far as {off}, it is {span}, so a gain in any case (90 % range)."
    settle = "a profile measured on your GPU" + ("" if policies else ", or more RL steps,")
    return f"As far as {off}, it is {span} (90 % range), so perhaps no gain: {settle} would settle it."


def _fastest(runs: Sequence[Row], ratio: str) -> int:
    """The place of the fastest but the baseline: of those that leave outputs as they are, if one is faster than it."""
    others = range(1, len(runs))
    kept = [i for i in others if runs[i]["lossless"] and runs[i][ratio] >= 1 + SAME]
    return max(kept or others, key=lambda i: runs[i][ratio])


def _lossy(runs: Sequence[Row], place: int, ratio: str) -> list[str]:
    """Say so where the one that is named, or a faster one, changes what the model writes."""
    if not runs[place]["lossless"]:
        return [
            f"{runs[place]['system']} is lossy: its outputs come from another distribution than the target model's."
        ]
    faster = max(runs[1:], key=lambda run: run[ratio])
    if faster is runs[place]:
        return []
    return [
        f"Faster still, but lossy, so with outputs of another distribution: {faster['system']}, {faster[ratio]:.2f} times."
    ]


def _tested(result: Result, best: Row) -> Row | None:
    """Its row of the comparison, if there is one."""
    rows = [] if result.comparison is None else result.comparison.table.to_pylist()
    return next((row for row in rows if row["policy"] == best["system"]), None)


def _doubt(result: Result, best: Row) -> str:
    """What the headline must not keep to itself."""
    row = _tested(result, best)
    return ", perhaps by chance" if row is not None and row["verdict"] == "no detectable difference" else ""


def _chance(result: Result, best: Row) -> list[str]:
    """What resampling prompts says of the difference."""
    row = _tested(result, best)
    if row is None or row["low"] is None:
        return ["Whether the difference is more than chance was not tested; --compare does."]
    against = f"over prompts {row['low']:.2f} to {row['high']:.2f} times {row['baseline']} (95 % interval)"
    return [f"Tested against chance: {row['verdict']}, {against}."]


def _told(result: Result, best: Row) -> list[str]:
    found = []
    if (share := best["extrapolated_fraction"]) >= MUCH:
        found.append(f"{share:.0%} of its decoding time lies outside the profile's valid range, so is extrapolated.")
    if left_out := result.about["left_out"]:
        found.append(
            f"{len(left_out)} of {len(left_out) + result.runs.num_rows} systems could not be run here (below)."
        )
    return found


def replayed(result: Result) -> str:
    """What was replayed on what."""
    first, about = result.runs.to_pylist()[0], result.about
    engine = about["scenario"]["engine"]
    parts = (first["rollouts"], "rollout"), (first["output_tokens"], "token"), (first["rl_steps"], "RL step")
    replicas, slots = _counted(engine["replicas"], "replica"), _counted(engine["max_num_seqs"], "sequence")
    return f"{', '.join(_counted(*part) for part in parts)}; {replicas} × {slots}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def errors(result: Result) -> list[str]:
    """What seconds may be off by, source by source, and by how much each moves the first system's makespan."""
    moved = json.loads(result.runs["errors"][0].as_py())
    found = []
    sources = [Source(**one) for one in result.about["errors"]]
    names = list(dict.fromkeys(one.name for one in sources))
    for name, told in zip(names, in_words(sources), strict=True):
        low, high = moved.get(name, (1.0, 1.0))
        found.append(f"{told}: moves the makespan of {result.runs['system'][0]} by {low - 1:+.1%} to {high - 1:+.1%}")
    return found


def assumptions(runs: Sequence[Row]) -> list[str]:
    """What systems assume, a line for those that assume the same."""
    return [*assumed([(run["system"], json.loads(run["assumes"])) for run in runs])]
