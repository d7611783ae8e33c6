"""Where recorded rollouts stand in a file decides nothing: ties go by step, prompt id and sample."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.replay import run
from simulator.scenario import Scenario
from traces.io import read

TRACE = Path(__file__).parents[2] / "traces/data/countdown.parquet"
POLICIES = ["none", "unlimited", "das", "classes", "threshold:4@16"]


@pytest.mark.parametrize(
    "drafter",
    [
        {"kind": "suffix"},
        {"kind": "suffix", "scope": "global"},
        {"kind": "suffix", "match": "scored"},
        {"kind": "suffix", "match": "scored", "shape": "tree"},
        {"kind": "suffix", "siblings": "live"},
        {"kind": "suffix", "newest": 20, "newest_weight": 3},
        {"kind": "last"},
    ],
    ids=str,
)
def test_shuffled_history_drafts_the_same(drafter: dict[str, Any]) -> None:
    trace = read(TRACE)
    now, past = np.flatnonzero(trace.step == 20), np.flatnonzero(trace.step < 20)
    shuffled = trace.select(np.concatenate([np.random.default_rng(0).permutation(past), now]))
    scenario = Scenario(
        trace=str(TRACE), profile="h100-llama-3.1-8b-published", policies=POLICIES, steps=[20], drafter=drafter,
        engine={"max_num_seqs": 64},
    )  # fmt: skip
    columns = ["makespan_s", "drafted_tokens", "accepted_tokens", "decode_steps"]
    first, second = (run(scenario, one).runs.select(columns).to_pylist() for one in (trace, shuffled))
    assert first == second
