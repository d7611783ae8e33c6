"""What an engine does not run is no candidate, and why is told."""

import pytest

from simulator.advise.candidates import OWN, Place, candidates, refined
from simulator.deploy.settings import parse_engine
from simulator.scenario import build
from traces.errors import InputError

EAGLE = {"kind": "eagle3", "curve": [0.8, 0.7, 0.6]}


def place(engine="vllm==0.33", framework=None, **settings):
    base = build({"trace": "t.parquet", "profile": "h100-llama-3.1-8b-published", "policies": ["none"],
                  "drafter": {"kind": "none"}, "engine": {"max_num_seqs": 64} | settings})  # fmt: skip
    return Place(base, parse_engine(engine), framework)


@pytest.mark.parametrize("engine", ["vllm==0.33", "sglang==0.5.23"])
def test_an_engines_own_drafters_run_without_a_refusal(engine):
    found, left_out = candidates(place(engine))
    assert {one.family for one in found} == {*OWN[engine.partition("=")[0]]}
    assert not left_out
    assert not any(one.settings.refused for one in found)


def test_policies_that_the_engine_does_not_have_are_left_to_the_proposer():
    found, left_out = candidates(place(), policies=["das"])
    assert [one.name for one in found] == ["proposer das"]
    assert {*left_out} == {"ngram das", "suffix das"}


def test_an_old_release_has_no_proposer():
    found, left_out = candidates(place("vllm==0.20"))
    assert {one.family for one in found} == {"ngram", "suffix"}
    assert "0.22" in left_out["proposer das"]


def test_a_model_is_tried_as_far_as_its_curve_goes():
    found, _ = candidates(place(), [EAGLE])
    assert [one.name for one in found] == ["eagle3 fixed:1", "eagle3 fixed:2", "eagle3 fixed:3"]
    assert "DRAFT_MODEL" in found[0].settings.shell


def test_k_follows_the_batch_where_the_engine_lets_it():
    def refinements(family, engine="vllm==0.33", **settings):
        there = place(engine, **settings)
        one = next(one for one in candidates(there)[0] if one.family == family and one.policy == "fixed:4")
        return [one.policy for one in refined(there, one)]

    assert refinements("ngram") == [f"schedule:1-{few}=4,{few + 1}-64={rest}" for few in (4, 16) for rest in (0, 2)]
    assert refinements("ngram", "vllm==0.23") == []  # takes none yet
    assert refinements("suffix") == []  # vLLM drops it
    assert refinements("ngram", data_parallel_size=2, replicas=2) == []
    assert len(refinements("proposer")) == 4


def test_two_of_a_kind_are_told_apart():
    found, _ = candidates(place(), [EAGLE, EAGLE | {"curve": [0.5]}], ["fixed:1"])
    assert [one.name for one in found] == ["eagle3 fixed:1", "eagle3-2 fixed:1"]


@pytest.mark.parametrize(
    ("engine", "drafters", "told"),
    [
        ("sglang", [{"kind": "proposer"}], "runs in vLLM"),
        ("vllm", [{"kind": "none"}], "held against"),
        ("vllm", [{"kind": "last"}], "runs none of these"),
        ("vllm", [{"kind": "nobody"}], "nobody"),
    ],
)
def test_what_runs_nowhere_is_refused(engine, drafters, told):
    with pytest.raises(InputError, match=told):
        candidates(place(engine), drafters)
