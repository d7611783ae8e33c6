"""What errors of the costs do to simulated seconds: the steps of a run priced anew, in the order that they were taken in.

To first order: which sequences a step has stays as it was simulated. That is exact where it does not hang on the clock (a
replica with its own queue, no arrivals); elsewhere it moves makespans by second-order terms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.recfunctions import structured_to_unstructured

from simulator.cost.errors import Source
from simulator.cost.kernel import features_of, step_times
from simulator.cost.model import Profile
from simulator.cost.operators import ROW_KEYS, Affine, Bounds, Operator, Roof, Table
from simulator.cost.packing import pack
from simulator.cost.work import FEATURES, WORK_FIELDS
from simulator.engine.log import Log

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Records = npt.NDArray[Any]

FIXED, TOKENS, CONTEXT = range(3)
PART_OF = dict.fromkeys(FEATURES, TOKENS) | {"constant": FIXED} | dict.fromkeys(
    ("kv_tokens", "pairs", "prefill_kv_tokens", "prefill_pairs", "longest_context", "context_tokens", "decode_context",
     "prefill_context", "excess_context", "evenness"), CONTEXT,
)  # fmt: skip
Factors = tuple[float, float, float]
TWICE: tuple[Factors, ...] = ((2.0, 1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 1.0, 2.0))
SAMPLE = 4096
"""About so many steps are priced anew, at even distances in each replica, where there are more; they stand for the others."""


@dataclass(frozen=True, eq=False)
class Steps:
    """Decode steps of a run, n of them. log: `state.Step`[n]; replica: int64[n], whose they are, numbered over all RL steps.

    weight: float64[n], how many steps each stands for, by seconds, and more where its rank waits for a slower one, whose seconds
    are off alike; ends_s: float64[replicas], seconds from the RL step's first decode step to the end of each one's last; first:
    int64[RL steps], the first replica of each.
    """

    log: Records
    replica: Int64
    weight: Float64
    ends_s: Float64
    first: Int64

    @property
    def stands_for(self) -> Float64:
        """How many steps each stands for, by seconds, float64[n]."""
        found: Float64 = self.weight * (1 - self.log["waited_s"] / self.log["duration_s"])
        return found

    def makespan_s(self, more_s: Float64) -> float:
        """Seconds of all RL steps where decode steps take so many seconds more; float64[n]."""
        later_s = np.bincount(self.replica, self.weight * more_s, self.ends_s.size)
        return float(np.maximum.reduceat(self.ends_s + later_s, self.first).sum())


def steps_of(rl_steps: Sequence[Sequence[Log]], sample: int = SAMPLE) -> Steps:
    """The steps behind the logs of each RL step's replicas, about `sample` of them; at least one decode step in all."""
    logs, replica, weight, ends, first = list[Records](), list[Int64](), list[Float64](), list[float](), list[int]()
    every = -(-sum(len(log) for replicas in rl_steps for log in replicas) // sample)
    for replicas in rl_steps:
        ran = [log for log in replicas if len(log)]
        if not ran:
            continue
        first.append(len(ends))
        start_s = min(log["start_s"][0] for log in ran)
        for log in ran:
            some = log[::every]
            stands_for = log["duration_s"].sum() / some["duration_s"].sum()
            logs.append(some)
            replica.append(np.full(len(some), len(ends)))
            weight.append(stands_for * some["duration_s"] / (some["duration_s"] - some["waited_s"]))
            ends.append(float(log["start_s"][-1] + log["duration_s"][-1] - start_s))
    return Steps(np.concatenate(logs), np.concatenate(replica), np.concatenate(weight), np.array(ends), np.array(first))


def joined(parts: Sequence[Steps]) -> Steps:
    """Steps of several RL steps, at least one, as one."""
    before = np.cumsum([0, *(part.ends_s.size for part in parts)])
    return Steps(
        np.concatenate([part.log for part in parts]),
        np.concatenate([part.replica + first for part, first in zip(parts, before[:-1], strict=True)]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.ends_s for part in parts]),
        np.concatenate([part.first + first for part, first in zip(parts, before[:-1], strict=True)]),
    )


def effects(source: Source, cost: Profile, steps: Steps) -> Float64:
    """Log of the makespan over the simulated one at each end of the source's range, and each combination of parts' ends.

    The combinations are the same for every run at this profile, in the same order.
    """
    simulated_s = steps.makespan_s(np.zeros(len(steps.log)))
    return np.log([steps.makespan_s(more_s) / simulated_s for more_s in _changes(source, cost, steps.log)])


def bars(cost: Profile, sources: Sequence[Source], steps: Steps) -> dict[str, list[Float64]]:
    """By source, what its errors do to the makespan of these steps (`effects`)."""
    found = dict[str, list[Float64]]()
    for one in sources:
        found.setdefault(one.name, []).append(effects(one, cost, steps))
    return found


def bar(cost: Profile, sources: Sequence[Source], rl_steps: Sequence[Sequence[Log]]) -> tuple[float, float]:
    """Factors (low, high) between which in nine of ten cases the true makespan lies over that of these logs."""
    return span([np.log(span(those)) for those in bars(cost, sources, steps_of(rl_steps)).values()])


def span(effects_: Sequence[Float64]) -> tuple[float, float]:
    """Factors (low, high) around 1 out of the effects of independent sources: worst combinations, added in quadrature."""
    down = np.sqrt(sum(max(0.0, -float(one.min())) ** 2 for one in effects_))
    up = np.sqrt(sum(max(0.0, float(one.max())) ** 2 for one in effects_))
    return float(np.exp(-down)), float(np.exp(up))


def scaled(one: Affine | Table, factors: Factors) -> Affine | Table:
    """The operator with what a step costs in any case, per token and per context token scaled apart.

    factors: for those three. A table's least value counts as fixed; what it adds to that counts as context where it has
    an axis of KV tokens, context or pairs, and as tokens elsewhere.
    """
    if isinstance(one, Table):
        least = one.values_s.min()
        return replace(one, values_s=least * factors[FIXED] + (one.values_s - least) * factors[_part_of_table(one)])
    by_part = (seconds * factors[PART_OF[key]] for key, seconds in zip(ROW_KEYS, one.row_s, strict=True))
    return replace(one, row_s=tuple(by_part))


def corners(operators: Sequence[Affine | Table], low: float, high: float) -> Iterator[Factors]:
    """Every way to scale the parts that the operators have by low or high, each alone."""
    parts = sorted({part for one in operators for part in _parts(one)})
    for ends in product((low, high), repeat=len(parts)):
        factors = [1.0, 1.0, 1.0]
        for part, factor in zip(parts, ends, strict=True):
            factors[part] = factor
        yield factors[0], factors[1], factors[2]


def _changes(source: Source, cost: Profile, log: Records) -> Iterator[Float64]:
    """Seconds more of each step at each end of the range."""
    ends, drafts = (source.low, source.high), log["drafted_tokens"] > 0
    operators = tuple(one for one in cost.operators if one.name in source.operators)
    if source.of in ("parts", "steps"):
        yield from _by_parts(source, operators, log)
    if source.of == "steps":
        priced_s = _seconds(operators, log)
        for drafting, plain in permutations(ends):
            yield (np.where(drafts, drafting, plain) - 1) * priced_s
    elif source.of == "host":
        for every, own in product(ends, repeat=2):
            yield np.asarray(every + own * drafts)
    elif source.of != "parts":
        concerned_s = _concerned(source, cost, operators, log)
        for factor in ends:
            yield (factor - 1) * concerned_s


def _by_parts(source: Source, operators: tuple[Operator, ...], log: Records) -> Iterator[Float64]:
    """Seconds more of each step at each corner, no step beyond the range; seconds are a sum of the parts'."""
    flat = tuple(one for operator in operators for one in _apart(operator))
    which = np.arange(len(log))
    if source.drafting is not None:
        which = which[(log["drafted_tokens"] > 0) == source.drafting]
    priced_s, flat_s = _seconds(operators, log[which]), _seconds(flat, log[which])
    part_s = [_seconds(tuple(scaled(one, twice) for one in flat), log[which]) - flat_s for twice in TWICE]
    for factors in corners(flat, source.low, source.high):
        more_s = sum((factor - 1) * seconds for factor, seconds in zip(factors, part_s, strict=True))
        changes_s = np.zeros(len(log))
        changes_s[which] = np.clip(more_s, (source.low - 1) * priced_s, (source.high - 1) * priced_s)
        yield changes_s


def _concerned(source: Source, cost: Profile, operators: tuple[Operator, ...], log: Records) -> Float64:
    """Seconds of each step that a source scales as a whole."""
    if source.of == "drafting":
        return np.array(log["draft_s"])
    if source.of == "overhead":
        own_s = log["duration_s"] - log["draft_s"] - log["waited_s"]
        return np.asarray(np.maximum(own_s - _seconds(cost.operators, log), 0.0))
    if source.of == "derived":
        return _outside(cost, {name: (-np.inf, most) for name, most in cost.derived.items()}, log)
    if source.of == "beyond":
        return _outside(cost, cost.valid_range, log)
    return _seconds(operators, log)


def _outside(cost: Profile, bounds: Bounds, log: Records) -> Float64:
    """Seconds in operators over a feature, in steps where that is out of bounds; in all of them where no operator is over it."""
    values, seconds = features_of(_rows(log)), np.zeros(len(log))
    out = {name: ~_within(values[:, FEATURES.index(name)], *span) for name, span in bounds.items()}
    out = {name: steps for name, steps in out.items() if steps.any()}
    named = {name for one in cost.operators for name in _features(one)}
    for one in cost.operators:
        steps = [those for name, those in out.items() if name in _features(one) or name not in named]
        if steps:
            seconds += np.logical_or.reduce(steps) * _seconds((one,), log)
    return seconds


def _within(values: Float64, low: float, high: float) -> npt.NDArray[np.bool_]:
    return (values >= low) & (values <= high)


def _features(one: Operator) -> set[str]:
    """What an operator's seconds depend on."""
    if isinstance(one, Table):
        return {*one.axes} | ({one.per} if one.per else set())
    rows = [one.row_s] if isinstance(one, Affine) else [one.memory_s, one.compute_s]
    return {key for row in rows for key, seconds in zip(ROW_KEYS, row, strict=True) if seconds}


def _apart(one: Operator) -> tuple[Affine | Table, ...]:
    """A roof as its two rows: how well a machine overlaps them is part of what is not known."""
    if not isinstance(one, Roof):
        return (one,)
    rows = [row for row in (one.memory_s, one.compute_s) if any(row)]
    return tuple(Affine(one.name, row, one.repeat) for row in rows)


def _seconds(operators: tuple[Operator, ...], log: Records) -> Float64:
    found: Float64 = step_times(pack(operators, {}), _rows(log)) if operators else np.zeros(len(log))
    return found


def _rows(log: Records) -> Float64:
    return np.ascontiguousarray(structured_to_unstructured(log[list(WORK_FIELDS)]))


def _parts(one: Affine | Table) -> set[int]:
    if isinstance(one, Table):
        rising = {_part_of_table(one)} if np.ptp(one.values_s) > 0 else set()
        return rising | ({FIXED} if one.values_s.min() > 0 else set())
    return {PART_OF[key] for key, seconds in zip(ROW_KEYS, one.row_s, strict=True) if seconds}


def _part_of_table(one: Table) -> int:
    return CONTEXT if any(PART_OF[axis] == CONTEXT for axis in one.axes) else TOKENS
