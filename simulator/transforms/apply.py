"""Transforms, one after another, on a trace and on what its decode steps cost."""

from collections.abc import Sequence

from simulator.drafting.drafter import Target
from simulator.plugins import calling
from simulator.transforms.transform import ChangesCosts, ChangesRollouts, TellsFacts, Transform
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


def facts_told(transforms: Sequence[Transform], trace: Trace) -> dict[str, dict[str, float]]:
    """Return what transforms tell of the trace as they left it, by transform."""
    told = dict[str, dict[str, float]]()
    for one in transforms:
        if isinstance(one, TellsFacts):
            with calling(f"transform {one.name}: facts", "mend the transform"):
                told[one.name] = {str(name): float(value) for name, value in one.facts(trace).items()}
    return told
