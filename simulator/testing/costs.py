"""Conformance of a cost model."""

import numpy as np

from simulator.cost.kernel import step_times
from simulator.cost.model import CostModel
from simulator.cost.work import StepWork


def check_cost_model(cost: CostModel) -> None:
    """Assert that a cost model keeps its contract.

    Checked: seconds are finite and positive, in the shape of the work; the compiled evaluator gives the same; a step costs
    no less for more query tokens or longer contexts; `outside` gives a flag for each step.
    """
    live = np.array([1.0, 4.0, 32.0, 256.0])[:, None]
    width = np.array([1.0, 2.0, 5.0, 17.0])[None, :]
    context = 700.0
    work = StepWork(live, live * width, live * context, live * width * context, np.zeros((4, 4)))
    seconds = cost.step_time_s(work)
    assert seconds.shape == (4, 4), "one value for each step"
    assert np.isfinite(seconds).all(), "seconds are finite"
    assert (seconds > 0).all(), "a step takes time"
    assert (np.diff(seconds, axis=1) >= 0).all(), "more query tokens cost no less"
    longer = cost.step_time_s(StepWork(live, live * width, live * 3000.0, live * width * 3000.0, np.zeros((4, 4))))
    assert (longer >= seconds).all(), "a longer context costs no less"
    outside = cost.outside(work)
    assert outside.shape == (4, 4), "one flag for each step"
    assert outside.dtype == np.bool_, "flags are bool"
    compiled = step_times(cost.packed, np.stack([field.ravel() for field in work.fields], axis=1)).reshape(4, 4)
    assert np.allclose(compiled, seconds, rtol=1e-12, atol=0), "the compiled evaluator agrees"
