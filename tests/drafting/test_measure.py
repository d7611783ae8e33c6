"""The drafter measured on history: each replayed rollout is drafted for from the others."""

import random

import numpy as np

from simulator.drafting import measure
from simulator.drafting.suffix import Suffix
from tests.drafting.rollouts import NAMES, Case, counted, sequence
from tests.reference.suffix import sequence_steps


def test_draft_curve_leaves_the_replayed_half_of_a_single_step_out() -> None:
    rng = random.Random(3)
    groups = [[sequence(rng, 30, 3) for _ in range(4)] for _ in range(3)]
    trace = Case([[NAMES[0]], [], [NAMES[1]]], groups, [[[1]]]).trace()
    drafter = Suffix(depth=6, factor=2.0)
    past = np.flatnonzero(trace.step == 0)
    curve = measure.draft_curve(drafter, trace, past, seed=0)
    assert curve.lengths.tolist() == [30] * 6, "every second of the twelve rollouts"
    for b, budget in enumerate(curve.budgets.tolist()):
        replayed = [
            sequence_steps(counted([group[1], group[3]], 6), prompt, output, budget, depth=6, factor=2.0)
            for group, prompt in zip(groups, ([NAMES[0]], [], [NAMES[1]]), strict=True)
            for output in (group[0], group[2])
        ]
        assert [steps[1:] for steps in replayed] == list(
            zip(curve.drafted[b].tolist(), curve.accepted[b].tolist(), strict=True)
        )
