"""Transforms, one after another, on a trace and on what its decode steps cost."""

from collections.abc import Sequence

from simulator.drafting.drafter import Target
from simulator.plugins import calling
from simulator.transforms.transform import ChangesCosts, ChangesRollouts, Transform
from traces.errors import InputError
from traces.trace import Trace


def transformed(transforms: Sequence[Transform], trace: Trace, target: Target, seed: int) -> tuple[Trace, Target]:
    """Return the trace and the target that a system runs; InputError where a transform has no answer, or a wrong one."""
    for one in transforms:
        if isinstance(one, ChangesRollouts):
            with calling(f"transform {one.name}: rollouts", "mend the transform"):
                changed = one.rollouts(trace, seed)
            if not isinstance(changed, Trace) or changed.steps != trace.steps:
                raise InputError(f"transform {one.name}: rollouts: give a trace of the same RL steps")
            trace = changed
        if isinstance(one, ChangesCosts):
            with calling(f"transform {one.name}: costs", "mend the transform"):
                target = one.costs(target)
            if not isinstance(target, Target):
                raise InputError(f"transform {one.name}: costs: give a Target")
    return trace, target
