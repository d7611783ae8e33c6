"""Rollouts that begin with what an earlier response of their slot has, once the policy of now has verified it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from simulator.plugins import calling
from simulator.training.loop import Loop, Watches
from simulator.training.stage import Prices, Stage
from simulator.transforms.transform import Transform
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]

NOBODY = -1


@dataclass(frozen=True, eq=False)
class Kept:
    """What n rollouts of an RL step begin with; int64[n] each.

    previous: row of the trace whose response is verified, -1 where there is none; prefix_tokens: tokens of it that are kept;
    total_tokens: that the rollout will have, those included; as many mean that nothing is left to generate.
    """

    previous: Int64
    prefix_tokens: Int64
    total_tokens: Int64

    @property
    def left(self) -> Int64:
        """Places of the rollouts that have something left to generate."""
        return np.flatnonzero(self.prefix_tokens < self.total_tokens)


@runtime_checkable
class KeepsPrefixes(Protocol):
    """A transform that verifies earlier responses before an RL step's rollouts begin, and has them go on from what is kept."""

    def kept(self, trace: Trace, rows: Int64, seed: int) -> Kept:
        """What the rollouts in `rows`, those of one RL step, begin with; InputError where the trace does not say.

        Random numbers are keyed by rollout and position (`drafting.draws`).
        """

    def verification(self, prices: Prices, log_probs: str) -> Stage:
        """What verifying takes: a stage of the batch, of prompts and verified responses.

        log_probs: settings of the system's stage of that name, empty where it has none.
        """


def keeping(transforms: Sequence[Transform], system: str, spec: str, loop: Loop) -> KeepsPrefixes | None:
    """The one of a system's transforms that keeps prefixes, None for none; InputError where its loop, of that name, cannot."""
    found = [one for one in transforms if isinstance(one, KeepsPrefixes)]
    if len(found) > 1:
        raise InputError(f"system {system}: two transforms say what rollouts begin with: give one")
    if found and (loop.lag or loop.interrupts or isinstance(loop, Watches)):
        raise InputError(
            f"system {system}: earlier responses are verified under the weights of the last update, before any rollout of an RL "
            f"step begins, and loop {spec} waits for neither: use loop sync"
        )
    return found[0] if found else None


def previous_rows(trace: Trace, rows: Int64) -> Int64:
    """Return, for each row, that of the same prompt and sample in the latest earlier RL step that has it; -1 for none."""
    order = np.lexsort((trace.step, trace.sample, trace.prompt))
    before, after = order[:-1], order[1:]
    same = (trace.prompt[before] == trace.prompt[after]) & (trace.sample[before] == trace.sample[after])
    previous = np.full(len(trace), NOBODY, np.int64)
    previous[after[same]] = before[same]
    return previous[rows]


def kept_of(keeps: KeepsPrefixes, trace: Trace, rows: Int64, seed: int) -> Kept:
    """Return what these rollouts begin with; InputError for what they cannot have."""
    name = f"transform {getattr(keeps, 'name', type(keeps).__name__)}: kept"
    with calling(name, "mend the transform"):
        found = keeps.kept(trace, rows, seed)
    whole = [found.previous, found.prefix_tokens, found.total_tokens] if isinstance(found, Kept) else []
    if not whole or any(one.shape != rows.shape or one.dtype != np.int64 for one in whole):
        raise InputError(f"{name}: give Kept with int64[{rows.size}] each: mend the transform")
    previous = found.previous
    inside = (previous >= NOBODY) & (previous < len(trace))
    verified = np.where(inside & (previous >= 0), trace.output_tokens[np.where(inside, previous, 0)], 0)
    fits = (found.prefix_tokens >= 0) & (found.prefix_tokens <= np.minimum(verified, found.total_tokens))
    if (bad := ~(inside & fits & (found.total_tokens >= 1))).any():
        at = int(bad.argmax())
        raise InputError(
            f"{name}: rollout {at} keeps {found.prefix_tokens[at]} of {verified[at]} tokens and has {found.total_tokens[at]} in "
            "all: a prefix is of the response before, and no longer than the rollout"
        )
    return found
