"""What rollouts are decoded on: costs, slots, replicas, placement and limits, as one value."""

from dataclasses import dataclass

from simulator.cost.draft_cost import FREE, DraftCost
from simulator.cost.model import CostModel, Profile
from simulator.drafting.strategy import Strategy
from simulator.engine.serving import ANYTHING, Serving
from simulator.scheduling.placement import Placement
from traces.errors import InputError


@dataclass(frozen=True)
class Deployment:
    """Equal replicas of one engine, and how rollouts reach them.

    cost: prices decode steps; max_num_seqs: slots of a replica; placement: one, or the name of one that needs no history;
    draft_cost: what drafting adds to a decode step; serving: the limits and switches of an engine; pull_s_per_token: seconds to
    send the KV of a token from one replica to another (None: unknown); strategies: the trees that are drafted (none: chains);
    data_parallel_size: so many consecutive replicas share the experts of the model, and step together.
    """

    cost: CostModel
    max_num_seqs: int
    replicas: int = 1
    placement: Placement | str = "shared"
    draft_cost: DraftCost = FREE
    serving: Serving = ANYTHING
    pull_s_per_token: float | None = None
    strategies: tuple[Strategy, ...] = ()
    data_parallel_size: int = 1

    def __post_init__(self) -> None:
        """Every rank has as many others."""
        assert self.replicas % self.data_parallel_size == 0, "replicas are whole groups of ranks"


def profile_of(deployment: Deployment) -> Profile:
    """The deployment's costs as operators; raises InputError where somebody's own cost model has none to look at."""
    if not isinstance(deployment.cost, Profile):
        raise InputError(f"cost model {deployment.cost.name}: only a profile can be taken apart: compare with one")
    return deployment.cost
