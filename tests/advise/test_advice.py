"""Whole advices: useless tokens are not drafted from, useful ones are, and too few tell nothing."""

import json
import shlex

import numpy as np
import pyarrow as pa
import pytest

from simulator.advise.advice import advise
from simulator.advise.candidates import Place
from simulator.advise.repriced import most_speedup
from simulator.cli import cli
from simulator.cost import Affine
from simulator.cost.model import Profile
from simulator.cost.operators import row
from simulator.cost.profiles import write_profile
from simulator.deploy.settings import parse_engine
from simulator.replay import run
from simulator.scenario import build
from traces.io import from_table, read
from traces.trace import Trace

TRACE = "traces/data/countdown.parquet"
QUICK = [{"kind": "suffix", "cost": "none"}]


@pytest.fixture(scope="module")
def recorded() -> Trace:
    """RL steps 16 to 19, 128 rollouts of 8 prompts each."""
    trace = read(TRACE)
    keep = [np.flatnonzero(trace.step == step)[:64] for step in range(16, 20)]
    return trace.select(np.concatenate(keep))


def place(profile="h100-llama-3.1-8b-published", source=TRACE, **settings) -> Place:
    base = build({"trace": source, "profile": profile, "policies": ["none"], "drafter": {"kind": "none"},
                  "engine": {"max_num_seqs": 32}} | settings)  # fmt: skip
    return Place(base, parse_engine("vllm==0.33"), "verl")


def with_tokens(trace: Trace, tokens: np.ndarray) -> Trace:
    field = trace.table.schema.field("token_ids")
    lists = np.split(tokens, np.cumsum(trace.output_tokens)[:-1])
    column = pa.array([one.tolist() for one in lists], field.type)
    return from_table(trace.table.set_column(trace.table.column_names.index("token_ids"), field, column))


def test_recorded_rollouts_are_worth_drafting_for(recorded):
    found = advise(place(), recorded, QUICK, ["fixed:4", "fixed:8"], resamples=100)
    assert found.verdict.answer == "enable"
    assert found.split.judged.steps == [18, 19]
    low, high = found.choice.ends
    assert 1 < low < found.choice.speedup < high
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["choice"]["range"] == [low, high]
    assert document["settings"]["config"]["speculative_config"]["method"] == "custom_class"
    assert "engine_kwargs.vllm.speculative_config.method=custom_class" in document["settings"]["snippet"]


@pytest.mark.parametrize("seed", [0, 1])
def test_tokens_that_repeat_nothing_are_not(recorded, seed):
    ids = np.random.default_rng(seed).permutation(recorded.tokens.size)
    found = advise(place(), with_tokens(recorded, ids), resamples=100)
    assert found.verdict.answer == "do not enable"


def test_shuffled_tokens_are_not(recorded):
    shuffled = with_tokens(recorded, np.random.default_rng(0).permutation(recorded.tokens))
    found = advise(place(), shuffled, QUICK, ["fixed:8", "fixed:16"], resamples=100)
    assert found.verdict.answer != "enable"
    assert found.choice.speedup < 1.05  # there are 40 kinds of tokens: some are right by chance


def test_a_few_rollouts_tell_nothing(recorded):
    few = recorded.select(np.isin(recorded.step, [19]) & (recorded.prompt < 2))
    found = advise(place(), few, QUICK, ["fixed:4"], resamples=100)
    assert found.split.by == "prompts"
    assert found.verdict.why.endswith("in this one RL step")
    assert found.verdict.answer == "cannot tell"
    assert "far more prompts" in " ".join(found.verdict.settles)  # one judges, and bounds nothing
    assert found.choice.ends[0] < 1 < found.choice.ends[1]


def test_lengths_alone_tell_nothing_of_drafts_from_tokens(recorded):
    lengths = from_table(recorded.table.drop_columns(["token_ids"]))
    found = advise(place(), lengths)
    assert found.verdict.answer == "cannot tell"
    assert "token ids" in found.verdict.why
    assert found.document()["choice"] is None


def test_lengths_are_enough_for_a_model_of_known_acceptance(recorded):
    lengths = from_table(recorded.table.drop_columns(["token_ids"]))
    eagle = {"kind": "eagle3", "curve": [0.9, 0.8, 0.7], "cost": {"per_step_s": 0.001}}
    found = advise(place(), lengths, [eagle], resamples=100)
    assert found.choice.candidate.family == "eagle3"
    assert any("DRAFT_MODEL" in line for line in found.assumed)


@pytest.mark.parametrize(("costs", "free"), [({"constant": 0.01, "live": 1e-5}, True), ({"query_tokens": 1e-4}, False)])
def test_drafts_that_cost_nothing_gain_the_most_that_they_could(recorded, tmp_path, costs, free):
    profile = Profile("made", "affine", (Affine("step", row(**costs)),), "m", "d", "made up", "none: made up")
    write_profile(profile, tmp_path / "made.yaml")
    scenario = build({"trace": TRACE, "profile": str(tmp_path / "made.yaml"), "policies": ["none", "fixed:8"], "steps": [19],
                      "drafter": QUICK[0]})  # fmt: skip
    result = run(scenario, recorded)
    most, speedup = most_speedup(result, profile, "none", "fixed:8"), result.runs["speedup"][1].as_py()
    assert most == pytest.approx(speedup) if free else most > 1.5 * speedup


def test_the_command_repeats_the_gain(recorded, tmp_path, capsys):
    from traces.io import write

    path = tmp_path / "trace.parquet"
    write(recorded.table, path, {})
    found = advise(place(source=str(path)), read(path), QUICK, ["fixed:8"], resamples=2)
    words = shlex.split(found.command)
    assert words[:2] == ["rolloutsim", "replay"]
    cli.main([*words[1:], "--json"], standalone_mode=False)
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert runs[1]["speedup"] == pytest.approx(found.choice.speedup)
