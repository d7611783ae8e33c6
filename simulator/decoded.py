"""What is told of an RL step's decode steps, of which there may be too many to keep."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.compare.sensitivity import Steps, steps_of
from simulator.cost.kernel import ends_of
from simulator.cost.work import FEATURES
from simulator.engine.log import Log

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

GAP_S = 1e-9
"""Decode steps that are less than this apart follow each other: times are rounded."""
NOWHERE = np.full(len(FEATURES), np.inf)


@dataclass(frozen=True, eq=False)
class Decoded:
    """Sums over the decode steps of an RL step, and a sample of them.

    steps, live, draft_s: how many, their live sequences summed, seconds of drafting; replica: int64[k], begin_s, end_s:
    float64[k], stretches in which a replica decodes without a gap; lowest, highest: float64[features], ends of each feature
    of the cost model (`cost.work.FEATURES`), infinite without a step; sample: steps that are priced anew for error bars, None
    without any.
    """

    steps: int
    live: float
    draft_s: float
    replica: Int64
    begin_s: Float64
    end_s: Float64
    lowest: Float64
    highest: Float64
    sample: Steps | None


Ends = dict[str, tuple[float, float]]
"""Least and most of each feature."""


def decoded(logs: Sequence[Log], sample: int) -> Decoded:
    """Sum up the decode steps of each replica, about `sample` of them to keep."""
    ran = [(number, log) for number, log in enumerate(logs) if len(log)]
    replica, begin_s, end_s = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0)]
    for number, log in ran:
        ends_s = log["start_s"] + log["duration_s"]
        begins = np.append(True, log["start_s"][1:] > ends_s[:-1] + GAP_S)
        begin_s.append(log["start_s"][begins])
        end_s.append(ends_s[np.append(begins[1:], True)])
        replica.append(np.full(begin_s[-1].size, number))
    ends_ = [ends_of(part) for _, log in ran for part in log.parts()] or [(NOWHERE, -NOWHERE)]
    return Decoded(
        sum(len(log) for _, log in ran),
        sum(float(log["live"].sum()) for _, log in ran),
        sum(float(log["draft_s"].sum()) for _, log in ran),
        np.concatenate(replica),
        np.concatenate(begin_s),
        np.concatenate(end_s),
        np.min([lowest for lowest, _ in ends_], axis=0),
        np.max([highest for _, highest in ends_], axis=0),
        steps_of([logs], sample) if ran else None,
    )


def ends(parts: Iterable[Decoded]) -> Ends:
    """Least and most of each feature over all decode steps."""
    each = [*parts]
    lowest = np.min([one.lowest for one in each], axis=0).tolist()
    highest = np.max([one.highest for one in each], axis=0).tolist()
    return dict(zip(FEATURES, zip(lowest, highest, strict=True), strict=True))
