"""Systems that draft reasoning steps ahead: what they share with plain ones, what they conserve, and what they refuse."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator.drafting.reasoning import StepLaw, draw_steps
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.testing import example_trace
from traces.errors import InputError
from traces.io import from_table
from traces.trace import Trace

PROFILE = "h100-llama-3.1-8b-published"
SPEC = "lookahead:depth={depth},acceptance={acceptance},step=5,cap=8,draft_s=0.001,judge_s=0.002{more}"
STAGES = ["reward:seconds=0.5,servers=4", "log_probs:seconds=0.25", "update:seconds=1", "sync:seconds=0.125"]


def ahead(
    depth: int = 3, acceptance: float = 0.6, more: str = "", name: str = "ahead", **system: Any
) -> dict[str, Any]:
    return {"name": name, "reasoning": SPEC.format(depth=depth, acceptance=acceptance, more=more), **system}


def played(*systems: dict[str, Any], trace: Trace | None = None, **document: Any) -> Result:
    given = {
        "trace": "example", "profile": PROFILE, "systems": list(systems), "engine": {"max_num_seqs": 4, "replicas": 2},
    }  # fmt: skip
    return run(build(given | document), trace or example_trace())


def finished(result: Result, name: str) -> Any:
    rollouts = result.to_pandas("rollouts")
    return rollouts[rollouts["system"] == name].drop(columns="system").reset_index(drop=True)


def test_nothing_drafted_ahead_is_plain_sync_to_the_bit() -> None:
    result = played({"name": "sync", "stages": STAGES}, ahead(depth=0, stages=STAGES))
    sync, same = result.runs.drop_columns(["system", "wall_s"]).to_pylist()
    assert sync == same
    assert finished(result, "sync").equals(finished(result, "ahead"))


@pytest.mark.parametrize("loop", ["sync", "one_step_async"])
@pytest.mark.parametrize("mode", ["async", "sync"])
@pytest.mark.parametrize(
    "engine", [{}, {"async_scheduling": True}, {"num_gpu_blocks": 40}, {"max_num_batched_tokens": 9}]
)
def test_recorded_tokens_are_the_output_once(loop: str, mode: str, engine: dict[str, Any]) -> None:
    trace = example_trace()
    system = ahead(more=f",mode={mode}", policy="fixed:2", loop=loop, stages=STAGES, engine=engine)
    result = played(system, trace=trace)
    row, facts = result.runs.to_pylist()[0], facts_of(result)
    assert row["output_tokens"] == trace.output_tokens.sum()
    assert len(finished(result, "ahead")) == len(trace)
    assert not row["lossless"]
    assert row["gpus"] == 2 + 2 * 2 + (2 if loop == "one_step_async" else 0)
    assert row["idle_gpu_s"] > 0
    emitted = result.to_pandas("steps")["emitted_tokens"].sum()
    assert emitted == sum(one["own_tokens"] + one["wasted_target_tokens"] for one in facts)
    for one in facts:
        assert one["accepted_steps"] <= one["drafted_steps"]
        assert one["accepted_steps"] <= one["verdicts"]
        assert one["target_steps"] >= one["reasoning_steps"]
        assert one["own_tokens"] < trace.output_tokens.sum()


def facts_of(result: Result) -> list[dict[str, Any]]:
    return [one["lookahead"] for one in json.loads(result.runs.to_pylist()[0]["facts"]).values()]


def test_blocks_enough_change_nothing() -> None:
    """What is kept is found by key, and what is drafted is computed once: as where blocks are not counted."""
    systems = [
        ahead(),
        ahead(name="counted", engine={"num_gpu_blocks": 100_000}),
        ahead(name="few", engine={"num_gpu_blocks": 30}),
    ]
    result = played(*systems, trace=lonely(), drafter={"kind": "none"})
    free, counted, few = result.runs.to_pylist()
    assert finished(result, "ahead")["finished_s"].equals(finished(result, "counted")["finished_s"])
    assert free["recomputed_tokens"] == counted["recomputed_tokens"] == 0
    assert counted["cached_tokens"] > 0 == free["cached_tokens"]
    assert few["makespan_s"] > counted["makespan_s"]
    assert few["recomputed_tokens"] > 0


def lonely() -> Trace:
    """The example's rollouts, each a group of its own: a prompt is nobody else's."""
    table = example_trace().table
    names = [f"p{i}" for i in range(len(table))]
    keep = [
        name for name in table.column_names if name not in ("prompt_id", "prompt_token_ids", "token_ids", "logprobs")
    ]
    return from_table(table.select(keep).append_column("prompt_id", pa.array(names)), "lonely")


def test_verdicts_and_lengths_belong_to_the_rollout() -> None:
    trace, law = example_trace(), StepLaw(6.0, 9, "geometric", 0.5)
    rows = np.arange(len(trace))
    whole, part = draw_steps(trace, rows, 3, law), draw_steps(trace, rows[::-2], 3, law)
    for i, row in enumerate(rows[::-2].tolist()):
        one, other = (slice(d.firsts[j], d.firsts[j] + d.counts[j]) for d, j in ((whole, row), (part, i)))
        for name in ("bounds", "accepted", "draft_tokens", "target_tokens"):
            assert (getattr(whole, name)[one] == getattr(part, name)[other]).all()
    more = draw_steps(trace, rows, 3, StepLaw(6.0, 9, "geometric", 0.8))
    assert (whole.accepted <= more.accepted).all()
    ends = np.flatnonzero(np.isin(np.arange(whole.bounds.size), whole.firsts + whole.counts))
    assert (whole.bounds[ends] == trace.output_tokens).all()
    lengths = np.delete(np.diff(whole.bounds), ends[:-1])
    assert lengths.min() >= 1
    assert lengths.max() <= 9


def test_steps_have_the_lengths_asked_for() -> None:
    """Geometric, cut at 9: mean m (1 - (1 - 1 / m)^9)."""
    names = ("step", "prompt_id", "sample", "prompt_tokens", "output_tokens")
    long = from_table(pa.Table.from_pylist([dict(zip(names, (0, "p", 0, 1, 600_000), strict=True))]), "long")
    drawn = draw_steps(long, np.arange(1), 0, StepLaw(6.0, 9, "geometric", 0.3))
    assert 600_000 / drawn.counts[0] == pytest.approx(6 * (1 - (5 / 6) ** 9), rel=0.01)  # five standard errors
    assert drawn.accepted.mean() == pytest.approx(0.3, abs=0.01)
    assert draw_steps(long, np.arange(1), 0, StepLaw(8.0, 9, "none", 0.3)).counts[0] == 75_000


def test_recorded_steps_are_cut_at_the_cap() -> None:
    rows = [
        {
            "step": 0,
            "prompt_id": name,
            "sample": 0,
            "prompt_tokens": 1,
            "output_tokens": sum(steps),
            "reasoning_steps": steps,
        }
        for name, steps in (("p", [3, 25, 1]), ("q", [10]), ("r", [2, 20]))
    ]
    trace, law = from_table(pa.Table.from_pylist(rows), "made"), StepLaw(6.0, 10, "geometric", 0.5)
    drawn = draw_steps(trace, np.array([2, 0]), 0, law)
    assert drawn.firsts.tolist() == [0, 4]
    assert drawn.counts.tolist() == [3, 5]
    assert drawn.bounds.tolist() == [0, 2, 12, 22, 0, 3, 13, 23, 28, 29]
    result = played(ahead(), trace=trace, drafter={"kind": "none"})
    assert facts_of(result)[0]["reasoning_steps"] == 1 + 4 + 1 + 2 + 1 + 3
    for steps, told in (([3, 0], "a step of 0 tokens"), ([3, 1], "its steps sum to 4 but output_tokens is 3")):
        broken = [{**rows[0], "output_tokens": 3, "reasoning_steps": steps}]
        with pytest.raises(InputError, match=told):
            from_table(pa.Table.from_pylist(broken), "broken")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("ahead:depth=3", "'ahead:depth=3' is unknown: use lookahead"),
        ("lookahead:depth=3", "needs acceptance: write acceptance=0.47"),
        ("lookahead:depth=3,acceptance=0.5", "needs step: write step=40"),
        ("lookahead:depth=3,acceptance=0.5,step=40", "needs draft or draft_s, one of both"),
        ("lookahead:depth=3,acceptance=0.5,step=40,draft=a,draft_s=1,judge_s=0", "needs draft or draft_s, one of both"),
        ("lookahead:depth=65,acceptance=0.5", "has depth=65: give a whole number from 0 to 64"),
        ("lookahead:depth=3,acceptance=1.5", "has acceptance=1.5: give a number from 0 to 1"),
        ("lookahead:depth=3,acceptance=nan", "has acceptance=nan: give a number from 0 to 1"),
        ("lookahead:depth=3,acceptance=0.5,step=0.5", "has step=0.5: give a number from 1"),
        ("lookahead:depth=3,acceptance=0.5,step=9.5,spread=none,draft_s=1,judge_s=0", "give step in whole tokens"),
        ("lookahead:depth=3,acceptance=0.5,step=9,cap=8,spread=none,draft_s=1,judge_s=0", "at most cap"),
        ("lookahead:depth=3,acceptance=0.5,step=9,draft_s=0,judge_s=0", "has draft_s=0: give a number from 1e-09"),
        ("lookahead:depth=3,width=2", "has setting 'width=2': did you mean depth=? use depth="),
    ],
)
def test_settings_that_make_no_sense_are_refused(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=r"systems\.0\.reasoning") as error:
        build({"trace": "t", "profile": PROFILE, "systems": [{"name": "s", "reasoning": spec}]})
    assert told in str(error.value)


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(InputError, match="plays rollouts from their first token to their last"):
        played(ahead(loop="partial:rollouts=4"))
    with pytest.raises(InputError, match="the budget policy is asked as the batch changes"):
        played(ahead(policy="goodput"))
    with pytest.raises(InputError, match=r"placement .* moves or stops rollouts later"):
        played(ahead(placement="divided:stay=9"))
    table = example_trace().table
    arriving = from_table(table.append_column("arrival_s", pa.array(np.arange(len(table)) * 1.0)), "arriving")
    with pytest.raises(InputError, match=r"never wait, and these arrive \(arrival_s\): set engine.arrivals"):
        played(ahead(), trace=arriving)
    spared = played({"name": "sync"}, ahead(), trace=arriving)
    assert spared.runs["system"].to_pylist() == ["sync"]
    assert "these arrive" in spared.about["left_out"]["ahead"]
    turns = [[{"generated_tokens": n, "wait_s": 1.0}] for n in table["output_tokens"].to_pylist()]
    with pytest.raises(InputError, match=r"never wait, and these wait for tools \(turns\)"):
        played(ahead(), trace=from_table(table.append_column("turns", pa.array(turns)), "waiting"))
    assert played(ahead(), trace=arriving, engine={"arrivals": False}).runs.num_rows == 1
    named = "lookahead:depth=2,acceptance=0.5,step=5,draft=qwen3-0.6b,judge_s=0"
    with pytest.raises(InputError, match=r"qwen3-0.6b has no price: name model and device"):
        played({"name": "s", "reasoning": named})
    with pytest.raises(InputError, match=r"qwen3-0\.6"):
        played({"name": "s", "reasoning": named.replace("0.6b", "0.6")}, model="qwen3-8b", device="h100")
