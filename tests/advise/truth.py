"""Where the truth is known: choices among what was timed, held to the clock.

`python -m tests.advise.truth` prints the tables of docs/advising.md. Each choice is made on RL steps before the one that was
timed, cut and counted like it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from calibration.live import recording, seconds
from calibration.truth import ground_truth
from simulator.advise.candidates import Place, candidates
from simulator.advise.search import Tried, search
from simulator.advise.split import Part
from simulator.cost.profiles import write_profile
from simulator.deploy.settings import parse_engine
from simulator.drafting.cost import write_draft_cost
from simulator.scenario import build
from traces.io import from_table, read
from traces.trace import Trace

TRACE = "traces/data/countdown.parquet"
BATCHES = (1, 4, 16, 64)
TRUTH = "calibration/ground_truth/epyc-dense-4-layers-at-{}.parquet"
TIMED = "tests/calibration/live/timed"
"""vLLM on a CPU, 24 rollouts: what the costs of the table below are fitted on."""
FITTED = ("none@4", "none@16", "ngram-4@4", "ngram-4@16")
VLLM = {
    8: {"none": 30.5, "ngram fixed:2": 25.0, "ngram fixed:4": 25.1, "ngram fixed:8": 23.2, "suffix fixed:8": 19.5,
        "suffix fixed:24": 19.8, "proposer fixed:8": 11.8, "proposer das": 17.0},
    32: {"none": 14.2, "ngram fixed:2": 13.8, "ngram fixed:4": 12.0, "ngram fixed:8": 13.2, "suffix fixed:8": 9.3,
         "suffix fixed:24": 12.7, "proposer fixed:8": 5.3, "proposer das": 8.2},
    128: {"none": 8.8, "ngram fixed:2": 8.0, "ngram fixed:4": 8.8, "ngram fixed:8": 10.3, "suffix fixed:8": 8.0,
          "suffix fixed:24": 8.8, "proposer fixed:8": 3.4, "proposer das": 6.3},
}  # fmt: skip
"""Seconds of vLLM by slots, medians of three repeats (docs/calibration.md#seconds)."""
VLLM_APART = 0.86
"""Repeats there differ by so much in the median."""


@dataclass(frozen=True)
class Held:
    """A choice, and the repeats of seconds that every candidate was measured to take. apart: how far repeats are, of either."""

    slots: int
    chosen: str
    measured: Mapping[str, Sequence[float]]
    apart: float

    @property
    def best(self) -> str:
        """The candidate with the least median."""
        return min(self.measured, key=lambda name: median(self.measured[name]))

    @property
    def regret(self) -> float:
        """How much longer the chosen one took than the best measured one, in medians."""
        return median(self.measured[self.chosen]) / median(self.measured[self.best]) - 1


def timed_decoder(batch: int, searched: Sequence[int] = (18, 19)) -> Held:
    """Among policies with suffix drafts that the harness of `calibration.truth` was timed under on so many slots."""
    truth = ground_truth.read(Path(TRUTH.format(batch)))
    about, measured = truth.about, dict[str, list[float]]()
    for one in truth.runs:
        measured.setdefault(one.policy, []).append(one.makespan_s)
    policies = [policy for policy in about["policies"] if policy != "none"]
    part = Part(_cut(searched, about["choice"]["rollouts"], about["choice"]["max_output_tokens"]), [*searched])
    drafter = {"kind": "suffix", **about["drafter"]}
    tried = _tried("epyc-dense-4-layers", about["max_num_seqs"], part, [drafter], policies)
    chosen = _first((one.candidate.policy, one.speedup) for one in tried if one.candidate.policy in measured)
    best = min(measured, key=lambda policy: median(measured[policy]))
    return Held(batch, chosen, measured, max(max(measured[one]) / min(measured[one]) - 1 for one in (chosen, best)))


def timed_vllm(slots: int, own: bool = False) -> Held:
    """Among what was timed in vLLM itself; own: what vLLM has without the proposer."""
    measured = {name: [s] for name, s in VLLM[slots].items() if not (own and name.startswith("proposer"))}
    tried = ((one.candidate.name, one.speedup) for one in _tried_in_vllm(slots))
    return Held(slots, _first(one for one in tried if one[0] in measured), measured, VLLM_APART)


@cache
def _tried_in_vllm(slots: int, searched: Sequence[int] = (19,)) -> list[Tried]:
    with TemporaryDirectory() as folder:
        profile, ngram, suffix = _costs(Path(folder))
        drafters = [
            {"kind": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4, "cost": ngram},
            {"kind": "suffix", "scope": "global", "match": "scored", "siblings": "live", "cost": suffix},
            {"kind": "suffix", "siblings": "live"},
        ]
        policies = ["fixed:2", "fixed:4", "fixed:8", "fixed:24", "das"]
        return _tried(profile, slots, Part(_cut(searched, 256, 300), [*searched]), drafters, policies)


def _tried(profile: str, slots: int, part: Part, drafters: list[dict[str, Any]], policies: list[str]) -> list[Tried]:
    base = build({
        "trace": TRACE, "profile": profile, "policies": ["none"], "drafter": {"kind": "none"}, "engine": {"max_num_seqs": slots},
    })  # fmt: skip
    place = Place(base, parse_engine("vllm==0.33"))
    found, _ = candidates(place, drafters, policies)
    return search(place, part, found, lambda doing: None)


def _first(tried: Iterable[tuple[str, float]]) -> str:
    """The first that was measured; no drafts where it is not faster."""
    name, speedup = next(iter(tried))
    return name if speedup > 1 else "none"


def _costs(folder: Path) -> tuple[str, str, str]:
    """Profile and costs of n-gram and suffix drafts, fitted as `validate --seconds` does."""
    costs = seconds.fit(seconds.repeated(recording.read(Path(TIMED))), FITTED, "countdown")
    write_profile(costs.profile, folder / "profile.yaml")
    for document in seconds.draft_costs(costs):
        write_draft_cost(document, folder / f"{document['drafter']}.yaml")
    return str(folder / "profile.yaml"), str(folder / "ngram.yaml"), str(folder / "suffix-global.yaml")


@cache
def _whole() -> Trace:
    return read(TRACE)


def _cut(steps: Sequence[int], rollouts: int, most: int) -> Trace:
    """The RL steps up to these, of which only the first rollouts are kept, their outputs cut."""
    trace = _whole()
    before = [step for step in trace.steps if max(steps) - 17 < step <= max(steps)]
    keep = [np.flatnonzero(trace.step == step)[: rollouts if step in steps else None] for step in before]
    part = trace.select(np.concatenate(keep))
    limit = np.where(np.isin(part.step, steps), most, part.output_tokens)
    tokens = [ids[:n] for ids, n in zip(part.table.column("token_ids").to_pylist(), limit.tolist(), strict=True)]
    table = part.table.select(
        ["step", "prompt_id", "sample", "prompt_tokens", "output_tokens", "prompt_token_ids", "token_ids"]
    )
    for name, values in (("token_ids", tokens), ("output_tokens", [len(ids) for ids in tokens])):
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return from_table(table, trace.source)


def main() -> None:
    """Print both tables."""
    parts = {
        "decoder": [timed_decoder(batch) for batch in BATCHES],
        "vLLM": [timed_vllm(slots) for slots in VLLM],
        "vLLM, its own": [timed_vllm(slots, own=True) for slots in VLLM],
    }
    for title, found in parts.items():
        print(f"| {title}: slots | chosen | measured best | takes longer by | repeats apart |\n|---|---|---|---|---|")
        for one in found:
            print(f"| {one.slots} | `{one.chosen}` | `{one.best}` | {one.regret:.1%} | {one.apart:.0%} |")


if __name__ == "__main__":
    main()
