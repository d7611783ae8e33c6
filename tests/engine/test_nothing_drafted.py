"""Where nothing is drafted anywhere one entry stands for all positions: as a table of zeros does, to the bit."""

from dataclasses import replace

import numpy as np
import pytest

from simulator.budgets.resolve import resolve_policy
from simulator.cost.profiles import load_profile
from simulator.drafting.acceptance import Acceptance, no_drafts
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.serving import Serving
from simulator.engine.workload import Workload
from tests.engine.workloads import assert_equal, context_of

COST = load_profile("h100-llama-3.1-8b-published")
SERVINGS = [Serving(), Serving(max_num_batched_tokens=512, num_gpu_blocks=400, async_scheduling=True)]


def workload_of(lengths: list[int]) -> Workload:
    """Rollouts of these lengths, for which a table says at every position that nothing is drafted."""
    output_tokens, index = np.array(lengths, np.int64), np.arange(len(lengths))
    offsets = np.append(0, np.cumsum(output_tokens))
    zeros = np.zeros((int(offsets[-1]), 2), np.uint8)
    acceptance = Acceptance(offsets, lambda budget: zeros, prefix=True)
    return Workload(index // 4, index % 4, np.full(index.size, 40), output_tokens, acceptance)


@pytest.mark.parametrize("policy", ["none", "fixed:3", "aimd"])
@pytest.mark.parametrize("serving", SERVINGS, ids=["plain", "paged"])
def test_no_table_is_a_table_of_zeros(policy: str, serving: Serving) -> None:
    workload = workload_of(np.random.default_rng(0).integers(1, 300, 64).tolist())
    deployment = Deployment(COST, 16, replicas=2, serving=serving)
    outcomes = [
        simulate(one, resolve_policy(policy, context_of(COST, 16)), deployment, check=True)
        for one in (workload, replace(workload, acceptance=no_drafts(workload.acceptance.offsets)))
    ]
    assert_equal(*outcomes)
