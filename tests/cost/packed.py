"""When two cost models are the same to compiled code."""

from simulator.cost import Profile

AXIS = ["feature", "points", "grid"]
"""What an axis is; where it was read last is no part of it."""


def assert_packed_alike(one: Profile, other: Profile) -> None:
    for name in ("rows", "bounds", "operators", "data"):
        assert one.packed.target(name).tobytes() == other.packed.target(name).tobytes(), name
    assert one.packed.target("axes")[AXIS].tolist() == other.packed.target("axes")[AXIS].tolist()
