"""The stage `online` in whole runs: rates, versions, pauses, and when it changes nothing."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.testing import example_trace
from simulator.training.online import OnlineTrainer, online
from simulator.training.resolve import resolve_stage
from simulator.training.stage import Prices
from tests.scenario.test_systems import LOOPS as ALL_LOOPS
from tests.scenario.test_systems import PROFILE
from traces.errors import InputError
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace

EAGLE = {"kind": "eagle", "curve": [0.6, 0.5, 0.4], "cost": {"per_pass_s": 0.0005}}
LOOPS = [loop for loop in ALL_LOOPS if not loop.startswith("own_pace")]
FAST = "online:rate=500,pause=0,limit=0.95,half_life=20,batch=2,sync=2,pool=64"


def played(*systems: dict[str, Any], trace: Trace | None = None, **document: Any) -> Result:
    given = {
        "trace": "example", "profile": PROFILE, "engine": {"max_num_seqs": 4, "replicas": 2}, "stages": ["update:seconds=1"],
        "systems": [{"policy": "fixed:3", "drafter": EAGLE, **one} for one in systems],
    }  # fmt: skip
    return run(build(given | document), trace or example_trace())


def facts(result: Result, number: int = 0) -> list[dict[str, Any]]:
    return list(json.loads(result.runs["facts"][number].as_py()).values())


def alike(result: Result, name: str) -> bool:
    """Whether all systems' tables are equal, to the bit."""
    table = result.to_pandas(name).drop(
        columns=["wall_s", "facts", "stages", "gpus", "idle_gpu_s", "basis"], errors="ignore"
    )  # type: ignore[arg-type]
    parts = [part.drop(columns="system").reset_index(drop=True) for _, part in table.groupby("system", sort=False)]
    return all(parts[0].equals(part) for part in parts[1:])


@pytest.mark.parametrize("loop", LOOPS)
def test_what_learns_nothing_and_pauses_for_nothing_changes_nothing(loop: str) -> None:
    """An infinite half-life, or a trainer that never makes a version: the plain drafter to the bit."""
    still = "online:rate=500,pause=0,limit={},half_life={},batch=2,sync={},pool=64"
    stages = [still.format("0.95", "inf", 2), still.format("0.95", "20", 10**6)]
    result = played({"name": "plain", "loop": loop}, *({"name": one, "loop": loop, "stages": [one]} for one in stages))
    told = [facts(result, number)[-1] for number in (1, 2)]
    assert [one["versions"] > 3 for one in told] == [True, False]
    for name in ("rollouts", "steps"):
        assert alike(result, name)
    assert result.runs["makespan_s"].to_pylist() == [result.runs["makespan_s"][0].as_py()] * 3


@pytest.mark.parametrize("arriving", [False, True])
@pytest.mark.parametrize("placement", ["shared", "static", "round_robin", "least_loaded"])
def test_nothing_changes_wherever_rollouts_go(placement: str, arriving: bool) -> None:
    trace = example_trace()
    if arriving:
        arrival_s = np.arange(len(trace)) % 17 / 8.0
        trace = from_table(trace.table.append_column("arrival_s", pa.array(arrival_s)), "arriving")
    still = "online:rate=500,pause=0,limit=0.95,half_life=inf,batch=2,sync=2"
    result = played(
        {"name": "plain", "placement": placement}, {"name": "still", "placement": placement, "stages": [still]}, trace=trace
    )  # fmt: skip
    assert alike(result, "rollouts")
    assert alike(result, "steps")


@pytest.mark.parametrize("loop", LOOPS)
def test_learning_saves_steps_and_pauses_take_time(loop: str) -> None:
    paused = FAST.replace("pause=0", "pause=0.5")
    result = played(*({"name": name, "loop": loop, "stages": [stage] * bool(stage)} for name, stage in (
        ("plain", ""), ("learns", FAST), ("pauses", paused),
    )))  # fmt: skip
    plain, learns, pauses = result.runs.to_pylist()
    assert plain["output_tokens"] == learns["output_tokens"] == pauses["output_tokens"]
    assert plain["mean_acceptance_length"] < learns["mean_acceptance_length"] <= 4
    assert learns["makespan_s"] < plain["makespan_s"]
    assert pauses["makespan_s"] > learns["makespan_s"]
    told = facts(result, 2)[-1]
    assert told["swap_s"] == 0.5 * told["versions"] > 0
    by_version = facts(result, 1)[-1]["acceptance_length_by_version"]
    assert list(by_version.values())[-1] > facts(result, 1)[0]["acceptance_length_by_version"]["0"]
    assert [plain["gpus"], learns["gpus"]] == [plain["gpus"], plain["gpus"] + 1]
    assert all(row["idle_gpu_s"] > 0 for row in (plain, learns, pauses))


def arriving(per_s: float, count: int = 400) -> Trace:
    """Rollouts of one token, that come at a constant rate and take a step each."""
    return from_table(pa.table({
        "step": pa.array([0] * count, pa.int32()), "prompt_id": [f"p{i}" for i in range(count)],
        "sample": pa.array([0] * count, pa.int32()), "prompt_tokens": pa.array([1] * count, pa.int32()),
        "output_tokens": pa.array([1] * count, pa.int32()), "arrival_s": np.arange(count) / per_s,
    }), "arriving")  # fmt: skip


@pytest.mark.parametrize("served_per_s", [2.0, 8.0, 32.0])
@pytest.mark.parametrize("trained_per_s", [4.0, 8.0, 16.0])
def test_training_goes_at_the_rate_of_what_is_slower(served_per_s: float, trained_per_s: float) -> None:
    """min(I, T) samples a second in the steady state, in whole trainer steps one after another."""
    count, batch, sync, pool = 400, 8, 2, 16
    stage = f"online:rate={trained_per_s},pause=0,limit=0.9,half_life=99,batch={batch},sync={sync},pool={pool}"
    trace = arriving(served_per_s, count)
    result = played({"name": "s", "stages": [stage]}, trace=trace, engine={"max_num_seqs": 64, "replicas": 1})
    told, end_s = facts(result)[0], float(result.rollouts["finished_s"].to_numpy().max())
    rate = min(served_per_s, trained_per_s)
    first_s = float(np.sort(result.rollouts["finished_s"].to_numpy())[batch - 1]) + batch / trained_per_s
    steps = 1 + int((end_s - first_s) * rate / batch + 1e-6)
    assert told["trained_samples"] == batch * steps
    assert told["versions"] == told["trained_samples"] // (batch * sync)
    waiting = count - told["trained_samples"] - told["dropped_samples"]
    assert 0 <= waiting <= pool + batch
    assert (told["dropped_samples"] > 0) == (served_per_s > trained_per_s)


@pytest.mark.parametrize(("served_per_s", "trained_per_s"), [(2, 4), (4, 4), (4, 2), (16, 1), (1, 16)])
def test_the_trainer_alone_is_exact(served_per_s: int, trained_per_s: int) -> None:
    """Trainer step k ends when the batch that it waited for is there and learnt, or right after the one before it."""
    batch, count, pool = 4, 512, 12
    prices = Prices(example_trace(), None, None, None, 1, 0)  # type: ignore[arg-type]
    trainer = OnlineTrainer(
        online(f"rate={trained_per_s},pause=0,limit=1,half_life=1,batch={batch},sync=3,pool={pool}", prices)
    )
    for i in range(count):
        while trainer.due_s < i / served_per_s:
            trainer.end_step()
        trainer.collect(np.zeros(1, np.int64), i / served_per_s)
    ends_s = [end_s for _, end_s in trainer.spans]
    own_s, full_s = batch / trained_per_s, (batch - 1) / served_per_s
    gap_s = batch / min(served_per_s, trained_per_s)
    assert ends_s == [full_s + own_s + gap_s * k for k in range(len(ends_s))]
    end_s = (count - 1) / served_per_s
    assert trainer.trained == batch * sum(one < end_s for one in ends_s)
    assert trainer.versions == trainer.trained // (batch * 3)
    in_step = batch * (trainer.due_s < np.inf)
    assert trainer.collected - trainer.trained - trainer.dropped - in_step <= pool
    assert (trainer.dropped > 0) == (served_per_s > trained_per_s)


def test_pauses_are_versions_times_pause_on_every_replica() -> None:
    """With no more to gain, replicas with work all the time take so much longer, and no less."""
    pause_s, limit = 0.25, "0.6/0.5/0.4"
    stages = [f"online:rate=1000,pause={one},limit={limit},half_life=20,batch=2,sync=3,pool=64" for one in (0, pause_s)]
    trace = from_table(synth(prompts=16, samples=8, steps=1, median_tokens=200, log_sigma=0.1, max_tokens=400), "synth")
    result = played(*({"name": one, "stages": [one]} for one in stages), trace=trace)
    logs = result.to_pandas("steps")
    for name, (told,) in ((stages[1], facts(result, 1)),):
        mine = logs[logs["system"] == name]
        makespan_s = float(result.runs["makespan_s"][1].as_py())
        for _, log in mine.groupby("replica"):
            ends_s = (log["start_s"] + log["duration_s"]).to_numpy()
            gaps_s = log["start_s"].to_numpy()[1:] - ends_s[:-1]
            taken = told["versions"] - 3 <= round(gaps_s.sum() / pause_s) <= told["versions"]
            assert taken, "versions after its last step pause nothing that can be seen"
            assert gaps_s.sum() == pytest.approx(round(gaps_s.sum() / pause_s) * pause_s, abs=1e-9)
            assert gaps_s.sum() + log["duration_s"].sum() <= makespan_s + 1e-9


def test_a_shift_of_domain_begins_anew() -> None:
    """Every RL step a domain of its own: what was learnt before is of no use, and is learnt again."""
    trace = from_table(synth(prompts=24, samples=8, steps=3, median_tokens=150, max_tokens=600, seed=2), "synth")
    stages = [f"{FAST}{domain}" for domain in ("", ",domain=step")]
    result = played(*({"name": one, "stages": [one]} for one in stages), trace=trace)
    known, shifted = ([list(one["acceptance_length_by_version"].values()) for one in facts(result, n)] for n in (0, 1))
    start = known[0][0]
    assert shifted[0] == known[0]
    for lengths in known[1:]:
        assert lengths[0] > start + 0.5
    for lengths in shifted[1:]:
        assert lengths[0] == pytest.approx(start, abs=0.15)
        assert lengths[-1] > start + 0.5


def test_staleness_is_what_was_served_and_not_learnt() -> None:
    """One sample a trainer step, a version for each, trained at once: each sample meets a version that knows all before it."""
    stage = "online:rate=1e9,pause=0,limit=0.9,half_life=99,batch=1,sync=1"
    (told,) = facts(played({"name": "s", "stages": [stage]}, trace=arriving(4.0, 50)))
    assert (told["stale_samples"], told["most_stale_samples"], told["versions"]) == (0.0, 0, 49)
    never = stage.replace("sync=1", "sync=1000")
    (told,) = facts(played({"name": "s", "stages": [never]}, trace=arriving(4.0, 50)))
    assert (told["stale_samples"], told["most_stale_samples"], told["versions"]) == (24.5, 49, 0)


def test_shares_are_of_an_rl_steps_rollouts() -> None:
    trace = from_table(synth(prompts=16, samples=4, steps=2, median_tokens=4, max_tokens=8), "synth")  # 64 an RL step
    stage = online(
        "rate=1,pause=0,limit=1,half_life=0.5,sync=0.25,pool=0.75,batch=4", Prices(trace, None, None, None, 1, 0)
    )  # type: ignore[arg-type]
    assert (stage.half_life, stage.sync, stage.pool) == (32, 4, 48)
    stage = online("rate=1,pause=0,limit=1,half_life=0.5,sync=0.01,pool=0.01", Prices(trace, None, None, None, 1, 0))  # type: ignore[arg-type]
    assert (stage.sync, stage.pool, stage.batch) == (1, 8, 8)
    stage = online("rate=1,pause=0,limit=1,half_life=9", None)
    assert (stage.sync, stage.pool, stage.batch, stage.gpus) == (500, 1000, 8, 1)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("online", "needs rate="),
        ("online:rate=4,pause=1,limit=0.8", "needs half_life="),
        ("online:rate=0,pause=1,limit=0.8,half_life=9", "rate=0: give a number from 1e-09"),
        ("online:rate=nan,pause=1,limit=0.8,half_life=9", "rate=nan"),
        ("online:rate=4,pause=61,limit=0.8,half_life=9", "pause=61: give a number from 0 to 60"),
        ("online:rate=4,pause=1,limit=1.2,half_life=9", "limit=1.2: give a number from 0 to 1"),
        ("online:rate=4,pause=1,limit=0.8,half_life=0", "half_life=0"),
        ("online:rate=4,pause=1,limit=0.8,half_life=9,pool=4", "takes 8 samples a trainer step, and 4 may wait"),
        ("online:rate=4,pause=1,limit=0.8,half_life=9,pool=1.5", "pool=1.5: give a whole number from 1 to 999999999, or a share"),
        ("online:rate=4,pause=1,limit=0.8,half_life=9,sync=0", "sync=0: give a whole number"),
        ("online:rate=4,pause=1,limit=0.8,half_life=9,gpus=0", "gpus=0"),
        ("online:rate=4,pause=1,limit=0.8,half_life=9,cap=3", "has setting 'cap=3'"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        resolve_stage(spec)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(InputError, match="has no acceptance curve to train"):
        played({"name": "s", "drafter": {"kind": "ngram"}, "stages": [FAST]})
    with pytest.raises(InputError, match="spot and online: one trains the drafter"):
        played({"name": "s", "stages": [FAST, "spot:half_life=0.5,tokens_per_s=9"]})
    with pytest.raises(InputError, match="at their own pace"):
        played({"name": "s", "loop": "own_pace", "stages": [FAST]})
    with pytest.raises(InputError, match="3 draft positions, and limits are given for 2"):
        played({"name": "s", "stages": [FAST.replace("limit=0.95", "limit=0.9/0.8")]})
    with pytest.raises(InputError, match="has no column 'topic'"):
        played({"name": "s", "stages": [f"{FAST},domain=topic"]})
    with pytest.raises(InputError, match="one trains the drafter online"):
        played({"name": "s", "stages": [FAST, FAST.replace("sync=2", "sync=3")]})
    table = example_trace().table
    topic = pa.array(["a", None] * (len(table) // 2) + ["a"] * (len(table) % 2))
    with pytest.raises(InputError, match=r"'topic' of .* is empty in"):
        played(
            {"name": "s", "stages": [f"{FAST},domain=topic"]},
            trace=from_table(table.append_column("topic", topic), "t"),
        )
