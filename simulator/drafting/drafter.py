"""The interface of a drafter, and which recorded rollouts it may have seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from simulator.cost.draft_cost import DraftCost as DraftCost
from simulator.drafting.acceptance import Acceptance
from simulator.plugins import calling
from simulator.records import read_only
from traces.errors import InputError
from traces.trace import Trace

if TYPE_CHECKING:
    from simulator.cost.model import Profile
    from simulator.drafting.acceptance import AcceptanceCounts
    from simulator.drafting.live import SiblingIndex
    from simulator.drafting.strategy import Strategy

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

MEND = "mend the drafter"

Source = Literal["prompt", "own", "siblings", "history", "model"]


class Drafter(Protocol):
    """Anything that proposes drafts for recorded rollouts."""

    @property
    def lossless(self) -> bool:
        """Whether verification keeps the target model's distribution."""

    @property
    def learns_from(self) -> frozenset[Source]:
        """What its drafts rest on."""

    @property
    def window(self) -> int:
        """RL steps of history that it looks at; 0 for none."""

    @property
    def needs_tokens(self) -> bool:
        """Whether it replays recorded token ids."""

    @property
    def cost(self) -> DraftCost:
        """What drafting adds to a decode step."""

    def describe(self) -> str:
        """Name it with every setting that a result depends on."""

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
        """What would be drafted and accepted at every position of the rollouts in `rows`.

        past: rows of the rollouts in the window, oldest first, complete and frozen. seed: names the random numbers of a
        drafter that draws them; they are keyed by rollout and position, never by the order of calls.
        """


class Target(NamedTuple):
    """What is drafted for: its costs and, where model and device are known, its config and what estimates other models there.

    repriced: where the costs are an estimate, makes it again under another config of the same model.
    """

    profile: Profile
    config: Mapping[str, Any] | None = None
    estimate: Callable[[Mapping[str, Any]], Profile] | None = None
    repriced: Callable[[Mapping[str, Any]], Profile] | None = None


@runtime_checkable
class Priced(Protocol):
    """A drafter whose cost follows from the target's."""

    def priced(self, target: Target) -> Drafter:
        """Return the same drafter at the price that it has there."""


@runtime_checkable
class ReservesSlots(Protocol):
    """A drafter that writes KV of its own."""

    @property
    def lookahead_tokens(self) -> int:
        """KV slots that an engine reserves for it beyond the drafts in flight."""


@runtime_checkable
class LosslessIf(Protocol):
    """A drafter that keeps the target model's distribution under a condition alone."""

    @property
    def lossless_if(self) -> str:
        """The condition, where the rollouts do not meet it; else empty."""


@runtime_checkable
class Branching(Protocol):
    """A drafter that drafts trees of given shapes, not chains: a budget is the most tokens of a tree to verify."""

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """What it drafts, by tokens to verify, ascending; none for chains."""


@runtime_checkable
class LiveDrafter(Protocol):
    """A drafter that can learn from siblings as they emit, in the engine's loop."""

    def sibling_index(self, trace: Trace, rows: Int64, past: Int64) -> SiblingIndex | None:
        """Return what drafts for the rollouts in `rows`; None where tables tell all, which `accept` makes."""


class Asked(NamedTuple):
    """Rollouts to draft for and the history to draft from, in its order; int64[], rows of a trace."""

    rows: Int64
    past: Int64


@runtime_checkable
class DraftsAhead(Protocol):
    """A drafter that need not learn anew for every RL step what it had learnt for the one before."""

    def accept_each(self, trace: Trace, asked: Sequence[Asked], seed: int) -> list[Acceptance] | None:
        """Do what `accept` does for each who asks; None where that would gain nothing."""


@runtime_checkable
class Counting(Protocol):
    """A drafter that need not draft everywhere to count what a constant budget gets accepted."""

    def counted(self, trace: Trace, rows: Int64, past: Int64, budget: int) -> AcceptanceCounts:
        """Replay each rollout alone, drafting only where a decode step begins."""


def accepted(drafter: Drafter, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
    """Return `drafter.accept(...)`, which cannot write into its arguments; whatever goes wrong there is an InputError.

    Raises InputError, too, where the answer is not an Acceptance of these rollouts.
    """
    name = f"drafter {type(drafter).__qualname__}"
    with calling(f"{name}: accept", MEND):
        found = drafter.accept(trace, read_only(rows), read_only(past), seed)
    if not isinstance(found, Acceptance):
        raise InputError(f"{name}: accept returned a {type(found).__name__}: return an Acceptance")
    if not np.array_equal(found.offsets, offsets_of(trace, rows)):
        raise InputError(f"{name}: accept returned offsets of other rollouts: return offsets_of(trace, rows)")
    compute = found.compute
    if compute is not None:

        def computed(budget: int) -> UInt8:
            with calling(f"{name}: drafts of budget {budget}", MEND):
                return compute(budget)

        found.compute = computed
    return found


def accepted_each(drafter: Drafter, trace: Trace, asked: Sequence[Asked], seed: int) -> list[Acceptance] | None:
    """Return what `accepted` does for each who asks, where the drafter gains by making them together; else None."""
    if not isinstance(drafter, DraftsAhead):
        return None
    with calling(f"drafter {type(drafter).__qualname__}: accept_each", MEND):
        return drafter.accept_each(trace, [Asked(*map(read_only, one)) for one in asked], seed)


def check_drafter(drafter: Any, name: str) -> Drafter:
    """Return somebody's drafter after a look at what it declares; InputError where something is missing or of another type."""
    members = [member for member in vars(Drafter) if not member.startswith("_")]
    with calling(f"drafter {name!r}: what it declares", MEND):
        if missing := [member for member in members if not hasattr(drafter, member)]:
            raise InputError(f"drafter {name!r} has no {missing[0]}: a drafter has {', '.join(members)}")
        kinds = {"lossless": bool, "learns_from": frozenset, "needs_tokens": bool, "cost": DraftCost, "window": int}
        for member, kind in kinds.items():
            if not isinstance(value := getattr(drafter, member), kind):
                raise InputError(f"drafter {name!r}: {member} = {value!r:.60}: give a {kind.__name__}")
        if drafter.window < 0:
            raise InputError(f"drafter {name!r}: window = {drafter.window}: give RL steps, 0 or more")
        if not isinstance(told := drafter.describe(), str):
            raise InputError(f"drafter {name!r}: describe() returned {told!r:.60}: return a text")
    checked: Drafter = drafter
    return checked


def strategies_of(drafter: Drafter) -> tuple[Strategy, ...]:
    """Return the trees that it drafts; none for chains."""
    return drafter.strategies if isinstance(drafter, Branching) else ()


def past_rows(trace: Trace, step: int, window: int) -> Int64:
    """Return the rows of `trace` in the `window` recorded RL steps before `step`, oldest first.

    Those of one RL step are in order of prompt id and sample: where they stand in the file breaks no tie.
    """
    before = [s for s in trace.steps if s < step][-window:] if window else []
    rows = np.flatnonzero(np.isin(trace.step, before))
    return rows[np.lexsort((trace.sample[rows], trace.prompt_rank[trace.prompt[rows]], trace.step[rows]))]


def offsets_of(trace: Trace, rows: Int64) -> Int64:
    """Return int64[n + 1], where each of the rollouts in `rows` begins among all their positions."""
    offsets = np.zeros(rows.size + 1, np.int64)
    np.cumsum(trace.output_tokens[rows], out=offsets[1:])
    return offsets
