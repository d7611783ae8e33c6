"""Conformance checks for anybody's parts: run them in your tests; AssertionError says what fails."""

from simulator.testing.costs import check_cost_model
from simulator.testing.drafters import check_drafter
from simulator.testing.examples import SEED, example_cost, example_trace, with_log_probs, with_rewards
from simulator.testing.placements import check_placement
from simulator.testing.policies import check_policy
from simulator.testing.training import check_loop, check_stage
from simulator.testing.transforms import check_prefixes, check_transform

__all__ = [
    "SEED", "check_cost_model", "check_drafter", "check_loop", "check_placement", "check_policy", "check_prefixes", "check_stage",
    "check_transform", "example_cost", "example_trace", "with_log_probs", "with_rewards",
]  # fmt: skip
