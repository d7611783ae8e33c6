"""What a drafter costs: from the words of a profile or of a scenario, or by default, to seconds in a decode step."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from simulator.cost.draft_cost import RATES, DraftCost, Forward
from simulator.drafting.cost import load_draft_cost
from simulator.drafting.drafter import Drafter, Priced, Target
from traces.errors import InputError

Costs: TypeAlias = Mapping[str, float]
Price: TypeAlias = Costs | str
"""Costs in the words of `draft_cost`, or a name that `entry_of` looks up."""

PER_PROPOSAL = {"per_proposal_s": "per_step_s", "verify_fraction": "step_fraction"}
"""Words that profiles use for fields of DraftCost."""
WORDS = (*RATES, *PER_PROPOSAL)


class Found(NamedTuple):
    """A price that was looked up: costs by the word, passes by operators; default: where both are from if nobody gave it."""

    costs: Costs
    forward: Forward | None = None
    default: str = ""


class ByPrice:
    """A dataclass of a drafter that costs what a user says: in words, or by a name that is looked up where the target is known.

    price: see `Price`. forward, default: what comes with a price that was looked up.
    """

    price: Price
    forward: Forward | None
    default: str

    def __post_init__(self) -> None:
        """Refuse costs that are written out wrongly."""
        if isinstance(self.price, Mapping):
            _ = self.cost

    @property
    def label(self) -> str:
        """What users call it."""
        return type(self).__name__.lower()

    @property
    def serial(self) -> bool:
        """Whether a pass drafts one token; else the one pass of a step drafts all."""
        return True

    @property
    def cost(self) -> DraftCost:
        """What drafting adds to a decode step; InputError where the price is a name still."""
        if not isinstance(self.price, Mapping):
            raise InputError(
                f"drafter {self.label}: cost = {self.price!r} is to be looked up where the target is known"
            )
        return replace(draft_cost(self.price, self.serial, f"drafter {self.label}: cost"), forward=self.forward)

    def priced(self, target: Target) -> Self:
        """Return the same drafter at the price that its name has there."""
        return self.at(entry_of(target, self.price)) if isinstance(self.price, str) else self

    def at(self, found: Found) -> Self:
        """Return the same drafter at this price."""
        drafter: Any = self
        made: Self = replace(drafter, price=found.costs, forward=found.forward, default=found.default)
        return made

    @property
    def told_default(self) -> str:
        """What a result says of a price that nobody gave; empty where one was given."""
        if not self.default:
            return ""
        return f"drafter {self.label} is priced by default ({self.default}): {self.told_price}; give cost where it was measured"

    @property
    def told_price(self) -> str:
        """The price as a result tells it."""
        if not isinstance(self.price, Mapping):
            return str(self.price)
        told = " ".join(f"{word}={cost:g}" for word, cost in self.price.items())
        forward = "" if self.forward is None else self.forward.cost.name
        return " + ".join(filter(None, (told, forward))) or "free"


@runtime_checkable
class Defaults(Protocol):
    """A drafter that may have a price that nobody gave."""

    @property
    def told_default(self) -> str:
        """What a result says of it; empty where the price was given."""


def draft_cost(costs: Costs, serial: bool, where: str) -> DraftCost:
    """Return what one proposal for the whole batch adds to a decode step.

    costs: rates of DraftCost, and what published fits give for a whole proposal, however many passes it took:
    per_proposal_s, verify_fraction (of the decode step's own time). serial: a pass drafts one token; otherwise the one pass
    of a step drafts all, so that what a pass costs comes once.
    """
    unknown = [word for word in costs if word not in WORDS]
    if unknown:
        raise InputError(f"{where}.{unknown[0]} is not a cost of drafting: use {', '.join(WORDS)}")
    for word, cost in costs.items():
        if not 0 <= cost < float("inf"):
            raise InputError(f"{where}.{word} = {cost:g}: a cost is a finite number of at least 0")
    given = dict.fromkeys(RATES, 0.0)
    for word, cost in costs.items():
        given[PER_PROPOSAL.get(word, word)] += cost
    if not serial:
        given["per_step_s"] += given.pop("per_pass_s")
        given["per_kv_token_s"] += given.pop("per_pass_kv_token_s")
    return DraftCost.of(given)


def entry_of(target: Target, entry: str) -> Found:
    """Return what the target's profile says that a drafter of this name costs, else the measured cost of this name.

    The latter is `cost.load_draft_cost`'s. Raises InputError where neither knows the name.
    """
    profile = target.profile
    if entry in profile.drafter_costs:
        return Found(profile.drafter_costs[entry])
    try:
        cost = load_draft_cost(entry)
    except InputError as error:
        known = ", ".join(sorted(profile.drafter_costs)) or "none"
        raise InputError(
            f"drafter cost {entry!r} is no entry of drafter_costs in profile {profile.name} (it has: {known}), and {error}; "
            "or write the costs out, such as {per_pass_s: 0.0007}"
        ) from None
    rates = {word: seconds for word, seconds in cost.rates.items() if seconds}
    return Found(rates, cost.forward)


def every_step(cost: DraftCost, passes: int) -> DraftCost:
    """Return `cost` for a model that makes all its passes in every step in which any sequence may draft."""
    forward = None if cost.forward is None else replace(cost.forward, passes=passes)
    return replace(cost, per_step_s=cost.per_step_s + passes * cost.per_pass_s, per_pass_s=0.0, forward=forward)


def both(one: DraftCost, other: DraftCost) -> DraftCost:
    """Return the cost of two drafters in the same step, one of which at most makes passes by operators."""
    assert one.forward is None or other.forward is None, "passes of two draft models in one step are not priced"
    summed = {rate: getattr(one, rate) + getattr(other, rate) for rate in RATES}
    return DraftCost.of(summed, one.forward or other.forward)


def priced(drafter: Drafter, target: Target) -> Drafter:
    """Return the drafter with costs that it names, or leaves out, looked up; other drafters as they are."""
    return drafter.priced(target) if isinstance(drafter, Priced) else drafter
