"""What is known of how far off a profile's seconds are, source by source, and what is assumed where nothing is known.

Each source is a range that holds the truth in nine of ten cases, between what the profile prices and what a machine takes.
Within a source all steps are off alike, all policies with them; how its parts hang together is not known, so the worst of their
combinations counts. Different sources are independent. Steps that verify drafts and steps that do not lean on other points of a
profile, so its own errors there are two sources; of a stated range (`Profile.error_factors`, of estimates) the worst counts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from math import exp, inf
from statistics import NormalDist
from typing import Literal

import scipy  # loads its parts when they are first used

from simulator.cost.held_out import held_out
from simulator.cost.model import Profile
from traces.errors import InputError

Of = Literal["parts", "steps", "level", "derived", "beyond", "link", "host", "overhead", "drafting"]

LEVEL = 0.9
MEDIAN = 0.6745
"""Median size of a normal error over its standard deviation. Tails are not looked at: of the points in a table they are single
ones, and a makespan adds up many steps."""
MOST_REACH = 20.0
"""Of the log of a factor: no profile is off by more."""
WHOLE_RUNS = "whole runs"
"""In `Profile.held_out`: makespans, each predicted from those of other runs."""
UNKNOWN_ERROR = "unknown: no error published, assumed"
UNKNOWN = 0.12
"""Typical error of a fit whose authors publish none: that of the one whose authors do (arXiv 2511.13841, about 12 %)."""
DEVICE = 1.04
"""GPUs of one kind differ by 8 % on average over a cluster (arXiv 2208.11035), so by half of it from the middle."""
DERIVED = 2.0
"""Costs beyond what was measured follow from lower limits of a kernel (imports): assumed to be these or up to twice as much."""
BEYOND = 1.5
"""Costs beyond the valid range: assumed to be off by this factor, up or down."""
LINK = 2.7
"""Two hosts' measured tables of one all-reduce (1 MB between two RTX PRO 6000: 159 and 59 us) are this factor apart."""
HOST_S = 1.2e-3
"""Host time that no kernel hides, of a step and once more of one that drafts, at most: that published for vLLM V1 on an H100
(arXiv 2601.11580, `overhead` of profile h100-llama-3.1-8b-published)."""
HOST_CODE = 2.0
"""Host code on another machine than it was measured on: assumed to be off by this factor, up or down."""
ESTIMATE = "(estimate)"
"""Operators whose names end so were not measured in a profile whose others were: assumed to be off by DERIVED, up or down."""
HOST = "host"
"""Name of an operator that stands for the host of kernels that were timed alone."""
LINKS = ("all-reduce", "expert exchange", "all-gather", "reduce-scatter", "all-to-all", "dispatch", "combine")
"""Operators whose names begin so move data between GPUs."""


@dataclass(frozen=True)
class Source:
    """Why seconds may be off: what it concerns, by which factors, and what that rests on.

    low, high: true over priced seconds; of `host`, seconds that a step takes besides. operators: names of those concerned.
    drafting: whether it concerns steps that verify drafts, or those that do not; None for both.
    """

    name: str
    of: Of
    low: float
    high: float
    basis: str
    operators: tuple[str, ...] = ()
    drafting: bool | None = None


def sources_of(profile: Profile, error: float | None = None, step_overhead_s: float = 0.0) -> list[Source]:
    """The sources of error in seconds simulated at this profile.

    error: the profile's seconds are within this fraction instead of what it says itself. step_overhead_s: host time that
    the user gave for each step. Raises InputError unless 0 <= error < 1.
    """
    host = tuple(one.name for one in profile.operators if one.name == HOST and profile.error_factors is None)
    kernels = tuple(one.name for one in profile.operators if not one.name.startswith((*LINKS, *host)))
    links = tuple(one.name for one in profile.operators if one.name.startswith(LINKS))
    own = [replace(one, drafting=steps) for one in _profile(profile, kernels, error) for steps in _steps(one)]
    found = [*own, *_around(kernels, links)]
    if profile.derived:
        found.append(Source("derived costs", "derived", 1.0, DERIVED, "assumed"))
    if step_overhead_s:
        found.append(Source("host", "overhead", 1 / HOST_CODE, HOST_CODE, "assumed of step_overhead_s"))
    elif host:
        found.append(Source("host", "level", 1 / HOST_CODE, HOST_CODE, "assumed: another host", host))
    elif found[0].operators != kernels:
        found.append(Source("host", "host", 0.0, HOST_S, "assumed: operators were timed alone"))
    return found


def in_words(sources: Iterable[Source]) -> Iterator[str]:
    """Each source in words."""
    for name, those in groupby(sources, lambda one: one.name):
        same = list(those)
        low, high = min(one.low for one in same), max(one.high for one in same)
        host = same[0].of == "host"
        span = f"0 to {1e3 * high:g} ms a step" if host else f"{low:.3g} to {high:.3g} times"
        yield f"{name} {span} ({same[0].basis})"


def _profile(profile: Profile, kernels: tuple[str, ...], error: float | None) -> Iterator[Source]:
    """What is known of the profile itself: of whole steps, else of each operator, else nothing."""
    if error is not None:
        if not 0 <= error < 1:
            raise InputError(f"profile error {error:g}: give a fraction from 0 to below 1, such as 0.1")
        yield Source("profile", "parts", 1 - error, 1 + error, "given", kernels)
    elif profile.error_factors is not None:
        yield Source("profile", "steps", *profile.error_factors, "stated by the profile", kernels)
    elif {"median", "points"} <= (runs := profile.held_out.get(WHOLE_RUNS, {})).keys():
        reach = _reach(runs["median"], runs["points"])
        yield Source("profile", "parts", 1 / reach, reach, f"{runs['points']:.0f} makespans left out", kernels)
    elif profile.relative_error is not None:
        reach = _reach(profile.relative_error)
        basis = f"typical error {profile.relative_error:.2%}"
        yield Source("profile", "parts", 1 / reach, reach, basis, kernels)
    elif medians := {
        name: of["median"] for name, of in held_out(profile).items() if of.get("points") and "median" in of
    }:
        for name in (one for one in kernels if not one.endswith(ESTIMATE)):
            reach = _reach(medians.get(name, max(medians.values())))
            yield Source("profile", "parts", 1 / reach, reach, "held-out error by operator", (name,))
    else:
        reach = _reach(UNKNOWN)
        yield Source("profile", "parts", 1 / reach, reach, UNKNOWN_ERROR, kernels)


def _steps(source: Source) -> tuple[bool | None, ...]:
    """The kinds of steps that are off independently of each other."""
    return (None,) if source.of == "steps" else (False, True)


def _reach(median: float, points: float = inf) -> float:
    """Factor that holds 90 % of errors of this median size: Student's where few points tell it."""
    share = (1 + LEVEL) / 2
    half = NormalDist().inv_cdf(share) if points == inf else float(scipy.special.stdtrit(max(points, 2.0) - 1, share))
    reach = half / MEDIAN * median
    if not 0 <= reach <= MOST_REACH:
        raise InputError(f"profile error {median:g} in the median of {points:g}: give a fraction such as 0.12")
    return exp(reach)


def _around(kernels: tuple[str, ...], links: tuple[str, ...]) -> Iterator[Source]:
    """What no profile says of itself."""
    yield Source("device", "level", 1 / DEVICE, DEVICE, "assumed: another one of its kind", kernels)
    yield Source("extrapolation", "beyond", 1 / BEYOND, BEYOND, "assumed", kernels)
    if estimated := tuple(one for one in kernels if one.endswith(ESTIMATE)):
        yield Source("estimated operators", "level", 1 / DERIVED, DERIVED, "assumed", estimated)
    if links:
        yield Source("link", "link", 1 / LINK, LINK, "assumed: another host", links)
    yield Source("drafting", "drafting", 1 / HOST_CODE, HOST_CODE, "assumed: another host")
