"""Host time of a step where costs are estimated: counted once, as a measurement has it or as the user says."""

import pytest

from simulator.cost.roofline import HOST_STEP_S
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from traces.errors import InputError
from traces.io import from_table
from traces.synthesis import synth

TRACE = from_table(synth(prompts=4, samples=2, steps=1, median_tokens=60, max_tokens=100, seed=5), "made")
ESTIMATED = {"trace": "made", "model": "llama-3.1-8b", "device": "h100", "policies": ["none"]}


def played(**engine: object) -> Result:
    return run(build({**ESTIMATED, "engine": {"max_num_seqs": 8, **engine}}), TRACE)


def makespan_s(result: Result) -> float:
    return float(result.runs["makespan_s"][0].as_py())


def test_a_given_host_time_takes_the_place_of_the_measured_one() -> None:
    usual, none, given = (
        makespan_s(played(**of)) for of in ({}, {"step_overhead_s": 0}, {"step_overhead_s": HOST_STEP_S})
    )  # type: ignore[arg-type]
    steps = played().runs["decode_steps"][0].as_py()
    assert usual - none == pytest.approx(steps * HOST_STEP_S)
    assert given == pytest.approx(usual, rel=1e-12)


def test_the_scenario_that_is_written_down_plays_the_same() -> None:
    scenario = build({**ESTIMATED, "engine": {"max_num_seqs": 8}})
    again = build(scenario.model_dump(mode="json"))
    assert makespan_s(run(again, TRACE)) == makespan_s(run(scenario, TRACE))


def test_a_system_with_a_host_time_of_its_own_is_refused_where_the_costs_count_one() -> None:
    slow = {"name": "slow", "policy": "none", "engine": {"step_overhead_s": 0.01}}
    document = {**ESTIMATED, "engine": {"max_num_seqs": 8}, "policies": [], "systems": [slow]}
    with pytest.raises(InputError, match=r"systems.0.engine.step_overhead_s: estimates and tables count the host"):
        build(document)
    given = run(build({**document, "engine": {"max_num_seqs": 8, "step_overhead_s": 0.0}}), TRACE)
    steps = given.runs["decode_steps"][0].as_py()
    assert makespan_s(given) - makespan_s(played(step_overhead_s=0)) == pytest.approx(steps * 0.01)
