"""What a result warns of."""

import numpy as np
import pyarrow as pa

from simulator.drafting.suffix import Suffix
from simulator.replay import run
from simulator.scenario import build
from traces.io import from_table
from traces.synthesis import synth

PROFILE = "h100-llama-3.1-8b-published"


def warnings_of(table: pa.Table, **changes: object) -> str:
    base = {"trace": "made", "profile": PROFILE, "policies": ["none", "fixed:2"], "steps": [1]}
    return "; ".join(run(build({**base, **changes}), from_table(table, "made")).about["warnings"])


def test_each_reservation_is_told_when_and_only_when_it_holds() -> None:
    table = synth(prompts=4, samples=2, steps=2, median_tokens=60, max_tokens=200, seed=1)
    assert warnings_of(table) == ""
    assert "no recorded step before" in warnings_of(table, steps=[0])
    assert "nothing was drafted under fixed:2" in warnings_of(table, drafter={"kind": "none"})
    assert "frozen history" in warnings_of(table, drafter={"siblings": "live"})
    ahead = {"max_num_seqs": 4, "async_scheduling": True}
    assert "async scheduling is on under fixed:2: vLLM switches it off" in warnings_of(table, engine=ahead)
    assert "async scheduling" not in warnings_of(table, engine=ahead, policies=["none"])
    arrivals = table.append_column("arrival_s", pa.array(np.arange(table.num_rows, dtype=np.float64)))
    assert warnings_of(arrivals) == ""
    crowd = synth(prompts=50, samples=2, steps=2, median_tokens=60, max_tokens=200, seed=1)
    told = warnings_of(crowd)
    assert "live 1 to 100, valid 1 to 64" in told
    assert "context_tokens" not in told


def test_the_newest_rl_steps_weigh_more() -> None:
    """Two old rollouts go 1 2 3, the newest one goes 1 2 4: a weight of three makes 4 the favourite after 1 2."""
    texts = [(0, [1, 2, 3]), (1, [1, 2, 3]), (2, [1, 2, 4]), (3, [1, 2, 4, 9])]
    trace = from_table(
        pa.table({
            "step": [step for step, _ in texts], "prompt_id": ["p"] * 4, "sample": [0] * 4, "prompt_tokens": [1] * 4,
            "output_tokens": [len(tokens) for _, tokens in texts], "token_ids": [tokens for _, tokens in texts],
        }),
        "made",
    )  # fmt: skip
    accepted = [
        int(
            Suffix(newest=newest, newest_weight=3, own=False).accept(trace, np.array([3]), np.arange(3)).tables[0, 2, 0]
        )
        for newest in (0, 1, 3)
    ]
    assert accepted == [0, 1, 0], "weighing one step, and not all alike, turns the favourite"
