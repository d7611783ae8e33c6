"""A trainer that takes groups as they finish: a flow shop of two stages, by its formula and against what waits for the batch."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from simulator.engine.clock import Clock
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.testing import example_trace
from simulator.training.loops import Pipelined
from simulator.training.pipeline import Arrivals
from traces.errors import InputError
from traces.io import from_table
from traces.trace import Trace

PROFILE = "h100-llama-3.1-8b-published"
S_PER_TOKEN = 1e-4


def made(seed: int) -> Trace:
    """A few RL steps of a few groups of unequal size."""
    rng = np.random.default_rng(seed)
    rows = [
        (step, f"p{group}", sample, int(rng.integers(1, 40)), int(np.ceil(rng.exponential(60))))
        for step in range(rng.integers(1, 5))
        for group in range(rng.integers(1, 9))
        for sample in range(rng.integers(1, 5))
    ]
    names = ("step", "prompt_id", "sample", "prompt_tokens", "output_tokens")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    ints = {name: pa.array(columns[name], pa.int32()) for name in names if name != "prompt_id"}
    return from_table(pa.table({"prompt_id": columns["prompt_id"], **ints}), "made")


def played(trace: Trace, *loops: str, stages: tuple[str, ...] = ()) -> Result:
    train = ["log_probs:s_per_token=2e-5", f"update:s_per_token={S_PER_TOKEN - 2e-5}", "sync:seconds=0.125"]
    systems = [{"name": loop, "loop": loop, "stages": [*stages, *train]} for loop in loops]
    engine = {"max_num_seqs": 3, "replicas": 2}
    document = {"trace": "made", "profile": PROFILE, "drafter": {"kind": "none"}, "systems": systems, "engine": engine}
    return run(build(document), trace)


def arrivals_of(result: Result, trace: Trace, system: str) -> list[list[tuple[float, int]]]:
    """By RL step, when each group has finished, and its tokens with those of its prompts; in order."""
    rollouts, steps = result.to_pandas("rollouts"), result.to_pandas("rl_steps")
    rollouts, steps = rollouts[rollouts["system"] == system], steps[steps["system"] == system].set_index("step")
    found = []
    for step, of_step in rollouts.groupby("step", sort=True):
        start_s = float(steps.loc[step, "start_s"])
        groups = [
            (start_s + float(group["finished_s"].max()), int((group["prompt_tokens"] + group["output_tokens"]).sum()))
            for _, group in of_step.groupby("prompt_id", sort=False)
        ]
        found.append(sorted(groups, key=lambda group: group[0]))
    return found


def flow_shop_s(arrivals: list[tuple[float, int]], size: int, free_s: float) -> float:
    """When the last mini-batch is done: the latest of (when one is there, and it and all after it take their time)."""
    parts = [arrivals[first : first + size] for first in range(0, len(arrivals), size)]
    there_s = [part[-1][0] for part in parts]
    takes_s = [S_PER_TOKEN * sum(tokens for _, tokens in part) for part in parts]
    all_s = free_s + sum(takes_s)
    return max(all_s, *(there_s[i] + sum(takes_s[i:]) for i in range(len(parts))))


@pytest.mark.parametrize("seed", range(60))
def test_updates_are_done_when_the_flow_shop_is(seed: int) -> None:
    trace, size = made(seed), 1 + seed % 4
    for loop in (f"sync:minibatch={size}", f"one_step_async:minibatch={size}"):
        result = played(trace, loop)
        free_s = 0.0
        for step, arrivals in zip(result.rl_steps.to_pylist(), arrivals_of(result, trace, loop), strict=True):
            expected_s = flow_shop_s(arrivals, size, free_s)
            assert step["trained_s"] == pytest.approx(expected_s, rel=1e-9)
            assert step["train_s"] == pytest.approx(S_PER_TOKEN * sum(tokens for _, tokens in arrivals), rel=1e-9)
            free_s = step["trained_s"]


def figures(result: Result, system: str) -> dict[str, Any]:
    found = {}
    for table in ("rl_steps", "rollouts", "steps", "spans"):
        rows: Any = getattr(result, table)
        mine = rows.filter(pa.compute.equal(rows["system"], system))
        found[table] = mine.drop_columns(
            [name for name in ("system", "idle_gpu_s", "speedup") if name in mine.column_names]
        )
    return found


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("stages", [(), ("reward:seconds=0.3,servers=2,fail=0.3",)])
@pytest.mark.parametrize("loop", ["sync", "one_step_async"])
def test_one_mini_batch_is_the_batch_to_the_bit(seed: int, stages: tuple[str, ...], loop: str) -> None:
    trace = made(seed)
    found = played(trace, loop, f"{loop}:minibatches=1", f"{loop}:minibatch=1000", stages=stages)
    whole = figures(found, loop)
    for other in (f"{loop}:minibatches=1", f"{loop}:minibatch=1000"):
        assert figures(found, other) == whole


@pytest.mark.parametrize("seed", range(20))
def test_groups_one_by_one_are_trained_on_soonest(seed: int) -> None:
    """In the first RL step, whose generation waits for nothing."""
    trace = made(seed)
    loops = ["one_step_async", *(f"one_step_async:minibatch={size}" for size in (1, 2, 3, 5))]
    trained_s = [
        steps["trained_s"].iloc[0]
        for _, steps in played(trace, *loops).to_pandas("rl_steps").groupby("system", sort=False)
    ]
    assert len(trained_s) == len(loops)
    assert min(trained_s) == trained_s[1]
    assert max(trained_s) == pytest.approx(trained_s[0], rel=1e-12)


def test_rewards_decide_when_a_group_is_ready() -> None:
    """One server, that takes longer than all else: groups come in the order of their last rewards, a minute apart."""
    trace = made(3)
    result = played(trace, "sync:minibatch=1", stages=("reward:seconds=60,servers=1",))
    rows = result.spans.to_pylist()
    updates = [row for row in rows if row["who"] == "update"]
    assert len(updates) == len(
        {(step, prompt) for step, prompt in zip(trace.step.tolist(), trace.prompt.tolist(), strict=True)}
    )
    for step in result.rl_steps.to_pylist():
        mine = [row for row in updates if row["step"] == step["step"]]
        rollouts = int((trace.step == step["step"]).sum())
        assert mine[-1]["end_s"] - mine[-1]["start_s"] < 60
        assert step["trained_s"] == mine[-1]["end_s"] > step["start_s"] + 60 * rollouts


def test_groups_that_are_ready_at_one_instant_go_by_number() -> None:
    clock = Clock()
    arrivals = Arrivals(clock, 10, np.array([4, 5, 5, 6]))
    taken: list[list[int]] = []

    def later() -> Any:
        yield clock.timeout(1.0)
        for number in (13, 12, 11):
            arrivals.judged(number)
        yield clock.timeout(0.0)
        arrivals.judged(10)

    def trainer() -> Any:
        for _ in range(3):
            groups = yield from arrivals.take(1)
            taken.append(groups)

    clock.process(later())
    clock.process(trainer())
    clock.run()
    assert taken == [[4], [5], [6]]
    assert clock.now == 1.0


@pytest.mark.parametrize(("groups", "sizes"), [(5, [5, 3, 2, 2, 1, 1]), (1, [1] * 6)])
def test_a_number_of_mini_batches_is_rounded_to_fewer(groups: int, sizes: list[int]) -> None:
    assert [Pipelined(minibatches=count).minibatch(groups) for count in (1, 2, 3, 4, 5, 9)] == sizes
    assert Pipelined(groups=7).minibatch(groups) == 7


def test_seconds_of_a_batch_are_shared_out() -> None:
    """`update:seconds=30` is of an RL step, in however many parts."""
    loops = [f"sync:minibatches={count}" for count in (1, 2, 5)]
    systems = [{"name": loop, "loop": loop, "stages": ["update:seconds=30"]} for loop in loops]
    document = {"trace": "t", "profile": PROFILE, "systems": systems, "engine": {"max_num_seqs": 64}}
    steps = run(build(document), example_trace()).to_pandas("rl_steps")
    assert np.allclose(steps["train_s"], 30)
    trained_s: npt.NDArray[np.float64] = steps.groupby("system", sort=False)["trained_s"].last().to_numpy()
    assert (np.diff(trained_s) < 0).all()


def test_rewards_that_wait_for_the_batch_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"loop sync:minibatch=2 trains on groups before it has a batch.*leave when=batch out"
    ):
        played(made(0), "sync:minibatch=2", stages=("reward:seconds=1,when=batch",))


@pytest.mark.parametrize(
    ("loop", "told"),
    [
        ("sync:minibatch=0", "give a whole number from 1"),
        ("one_step_async:minibatches=x", "give a whole number from 1"),
        ("sync:minibatch=2,minibatches=3", "give one of them"),
        ("sync:lag=2", "use minibatch=, minibatches="),
        ("tests.theory.test_pipeline:Both", "drop one"),
    ],
)
def test_what_makes_no_mini_batches_is_refused(loop: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        build({"trace": "t", "profile": PROFILE, "systems": [{"name": "s", "loop": loop}]})


class Both:
    """Watches, and takes mini-batches."""

    lag = 0
    interrupts = False

    @staticmethod
    def offer(view: Any) -> int:
        return 1

    @staticmethod
    def enough(view: Any) -> bool:
        return True

    @staticmethod
    def minibatch(groups: int) -> int:
        return 1
