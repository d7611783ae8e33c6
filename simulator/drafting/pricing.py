"""What a draft model costs, from the words of a profile's `drafter_costs` or of a scenario to seconds in a decode step."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace

from simulator.cost.draft_cost import DraftCost
from simulator.cost.model import Profile
from simulator.drafting.cost import load_draft_cost
from simulator.drafting.drafter import Drafter, Priced
from traces.errors import InputError

Costs = Mapping[str, float]

PER_PROPOSAL = {"per_proposal_s": "per_step_s", "verify_fraction": "step_fraction"}
"""Words that profiles use for fields of DraftCost."""
WORDS = (*(field.name for field in fields(DraftCost)), *PER_PROPOSAL)


def draft_cost(costs: Costs, serial: bool, where: str) -> DraftCost:
    """Return what one proposal for the whole batch adds to a decode step.

    costs: fields of DraftCost, and what published fits give for a whole proposal, however many passes it took:
    per_proposal_s, verify_fraction (of the decode step's own time). serial: a pass drafts one token; otherwise the one pass
    of a step drafts all, so that what a pass costs comes once.
    """
    unknown = [word for word in costs if word not in WORDS]
    if unknown:
        raise InputError(f"{where}.{unknown[0]} is not a cost of drafting: use {', '.join(WORDS)}")
    for word, cost in costs.items():
        if not 0 <= cost < float("inf"):
            raise InputError(f"{where}.{word} = {cost:g}: a cost is a finite number of at least 0")
    given: dict[str, float] = dict.fromkeys((field.name for field in fields(DraftCost)), 0.0)
    for word, cost in costs.items():
        given[PER_PROPOSAL.get(word, word)] += cost
    if not serial:
        given["per_step_s"] += given.pop("per_pass_s")
        given["per_kv_token_s"] += given.pop("per_pass_kv_token_s")
    return DraftCost(**given)


def entry_of(profile: Profile, entry: str) -> Costs:
    """Return the entry of the profile's `drafter_costs`, else the measured cost of this name (`cost.load_draft_cost`)."""
    if entry in profile.drafter_costs:
        return profile.drafter_costs[entry]
    try:
        return {word: cost for word, cost in asdict(load_draft_cost(entry)).items() if cost}
    except InputError as error:
        known = ", ".join(sorted(profile.drafter_costs)) or "none"
        raise InputError(
            f"drafter cost {entry!r} is no entry of drafter_costs in profile {profile.name} (it has: {known}), and {error}; "
            "or write the costs out, such as {per_pass_s: 0.0007}"
        ) from None


def every_step(cost: DraftCost, passes: int) -> DraftCost:
    """Return `cost` for a model that makes all its passes in every step in which any sequence may draft."""
    return replace(cost, per_step_s=cost.per_step_s + passes * cost.per_pass_s, per_pass_s=0.0)


def both(one: DraftCost, other: DraftCost) -> DraftCost:
    """Return the cost of two drafters in the same step."""
    return DraftCost(*(getattr(one, field.name) + getattr(other, field.name) for field in fields(DraftCost)))


def priced(drafter: Drafter, profile: Profile) -> Drafter:
    """Return the drafter with costs that it names looked up in the profile; other drafters as they are."""
    return drafter.priced(profile) if isinstance(drafter, Priced) else drafter
