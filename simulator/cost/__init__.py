"""What a decode step costs: profiles made of affine, roofline and table operators, and their compiled evaluator.

`load_profile` reads a shipped or a user's profile, `roofline` estimates one, `kernel` evaluates any of them.
"""

from simulator.cost.model import CostModel, Profile
from simulator.cost.operators import Affine, Operator, Roof, Table
from simulator.cost.profiles import list_profiles, load_profile
from simulator.cost.roofline import roofline
from simulator.cost.work import FEATURES, StepWork

__all__ = [
    "FEATURES",
    "Affine",
    "CostModel",
    "Operator",
    "Profile",
    "Roof",
    "StepWork",
    "Table",
    "list_profiles",
    "load_profile",
    "roofline",
]
