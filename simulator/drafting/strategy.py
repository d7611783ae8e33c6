"""Tree strategies of a draft model: how deep and wide a tree is, how many of its tokens are verified and how many accepted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are first used

from simulator.drafting.curve import AcceptanceCurve
from simulator.limits import LARGEST_BUDGET
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Strategy:
    """Draft trees of one shape.

    depth: serial passes of the draft model, and the longest path in tokens; topk: tokens that every pass goes on from;
    verify: tokens of the tree that the target verifies, one query token each beside the last emitted one. curve: its
    survival at j is P(at least j tokens are accepted), j = 1..min(depth, verify): no path is longer.
    """

    depth: int
    topk: int
    verify: int
    curve: AcceptanceCurve

    def __post_init__(self) -> None:
        """Refuse what is no tree, and a curve of other depth."""
        for name in ("depth", "topk", "verify"):
            if not 1 <= getattr(self, name) <= LARGEST_BUDGET:
                raise InputError(f"strategy {self.name}: {name} = {getattr(self, name)}: give 1 to {LARGEST_BUDGET}")
        longest = longest_path(self.depth, self.verify)
        if self.curve.positions != longest:
            raise InputError(
                f"strategy {self.name}: its curve has {self.curve.positions} positions, a path {longest} tokens: give one "
                "probability for each"
            )

    @property
    def name(self) -> str:
        """Its numbers, as TLT writes them but with hyphens, which YAML reads as text."""
        return name_of(self.depth, self.topk, self.verify)

    def describe(self) -> str:
        """Name it with every number that a result depends on."""
        return f"{self.name}: {self.curve.describe()}"


def name_of(depth: int, topk: int, verify: int) -> str:
    """Return `depth-topk-verify`."""
    return f"{depth}-{topk}-{verify}"


def longest_path(depth: int, verify: int) -> int:
    """Tokens of the longest path that can be accepted."""
    return min(depth, verify)


def geometric(depth: int, topk: int, verify: int, accept_length: float) -> AcceptanceCurve:
    """Return the curve of equal conditional probabilities whose mean acceptance length is the measured one, bonus included.

    q with 1 + q + q² + ... + q^d = accept_length, d the longest path: the accepted part of a path is geometric, cut at d.
    A table of means does not tell how they are spread; of all distributions with this mean and at most d tokens it is the one
    in which a token's chance does not depend on how deep it stands. Raises InputError for a mean that no tree has.
    """
    longest = longest_path(depth, verify)
    if not 1 <= accept_length <= longest + 1:
        raise InputError(
            f"strategy {name_of(depth, topk, verify)}: accept_length = {accept_length:g}: a path of at most {longest} tokens "
            f"and the bonus have 1 to {longest + 1}; correct it (the bonus counts)"
        )
    powers = np.arange(longest + 1)
    q = scipy.optimize.brentq(lambda rate: (rate**powers).sum() - accept_length, 0.0, 1.0, xtol=1e-15)
    return AcceptanceCurve(
        (float(q),) * longest, name=f"accept length {accept_length:g}", source="a table of means by strategy"
    )


def ordered(strategies: Iterable[Strategy]) -> tuple[Strategy, ...]:
    """Return the strategies by tokens to verify; InputError where a budget could not tell which is meant.

    A budget is the most tokens to verify, so no two may verify equally many. Depth may not fall as they become more: the
    passes of a decode step are those of its largest tree.
    """
    found = tuple(sorted(strategies, key=lambda one: one.verify))
    if not found:
        raise InputError("strategies: none is given: give at least one")
    for one, more in pairwise(found):
        if one.verify == more.verify:
            raise InputError(
                f"strategies {one.name} and {more.name} verify equally many tokens, by which a budget tells them apart: keep one "
                "(`use` chooses)"
            )
        if one.depth > more.depth:
            raise InputError(
                f"strategy {more.name} verifies more tokens than {one.name} and is less deep: keep one of them, for a step "
                "takes the passes of its largest tree"
            )
    return found


def chosen_for(strategies: Sequence[Strategy], budget: int) -> Strategy | None:
    """Return the largest strategy that a budget above 0 permits; None where there are none, InputError where all are larger."""
    permitted = [one for one in strategies if one.verify <= budget]
    if strategies and not permitted:
        verify = ", ".join(str(one.verify) for one in strategies)
        raise InputError(
            f"budget {budget}: no tree is so small: budgets are tokens to verify, and the strategies verify {verify}: use these"
        )
    return permitted[-1] if permitted else None


@cache
def passes_by_tokens(strategies: tuple[Strategy, ...]) -> Int64:
    """Return int64[256], the serial passes that a draft of so many tokens takes: its own tokens for a chain, a tree's depth."""
    if not strategies:
        return np.arange(LARGEST_BUDGET + 1)
    sizes = [0, *(one.verify for one in strategies)]
    which = np.minimum(np.searchsorted(sizes, np.arange(LARGEST_BUDGET + 1)), len(strategies))
    return np.array([0, *(one.depth for one in strategies)])[which]
