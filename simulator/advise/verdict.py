"""The answer in words: enable, do not enable, or cannot tell, and then what would settle it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, inf, log
from typing import Literal

from simulator.advise.judge import Ends, Judged, Moved

Answer = Literal["enable", "do not enable", "cannot tell"]
LEAST = 1.02
"""A speed-up below this is not worth a setting."""
FAR = 100
"""Nobody records so many times as much."""
KNOWN = 0.05
"""How well somebody who measures is taken to know what steps cost."""


@dataclass(frozen=True)
class Verdict:
    """why: one sentence; settles: what would make it another one, where it cannot be told."""

    answer: Answer
    why: str
    settles: tuple[str, ...] = ()


def verdict(judged: Judged, measured: Moved | None = None, measure: str = "") -> Verdict:
    """What a choice's gain on the part that judges says.

    measured: how far costs would move it that are known within KNOWN; measure: how to get such.
    """
    (low, high), name = judged.ends, judged.candidate.name
    if low > 1 and judged.speedup >= LEAST:
        return Verdict("enable", f"{name} makes generation {judged.speedup:.2f} times as fast, {_told(judged.ends)}")
    if high < 1:
        return Verdict("do not enable", f"even the best that was found, {name}, is slower than no drafts")
    if high < LEAST or low > 1:
        return Verdict("do not enable", f"the best that was found, {name}, gains less than {LEAST - 1:.0%}")
    told = "faster" if judged.speedup > 1 else "slower"
    why = f"{name} came out {told} than no drafts, but its range holds both: {low:.2f} to {high:.2f} times"
    return Verdict("cannot tell", why, tuple(_settling(judged, measured, measure)))


def _settling(judged: Judged, measured: Moved | None, measure: str) -> Iterator[str]:
    gain = log(judged.speedup)
    reach = judged.below if gain > 0 else judged.above
    if reach >= abs(gain):
        yield f"errors of the costs alone span no gain ({_told(judged.costs)}): {_knowing(judged, measured, measure)}"
    if judged.sampled >= abs(gain):
        more = (judged.sampled / abs(gain)) ** 2 if gain else inf
        often = f"about {ceil(more)} times as many prompts" if more < FAR else "far more prompts than anybody does"
        yield f"the draw of prompts alone spans no gain ({_told(judged.sampling)}): record {often}, in each RL step or in more"
    elif reach < abs(gain):
        yield "errors of the costs and the draw of prompts span no gain only together: less of either would settle it"


def _knowing(judged: Judged, measured: Moved | None, measure: str) -> str:
    """What to do about errors of the costs."""
    if measured is None:
        return "say that they are less, if they are"
    narrow = replace(judged, below=min(judged.below, measured.below), above=min(judged.above, measured.above))
    if narrow == judged:
        return "those of its steps are known well, and those around them remain: the device, drafting, extrapolation"
    low, high = narrow.ends
    enough = "would settle it" if low > 1 or high < LEAST else "would not settle it alone"
    return f"{measure}; with steps known within {KNOWN:.0%} the range would be {_told(narrow.ends)}, which {enough}"


def _told(ends: Ends) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"
