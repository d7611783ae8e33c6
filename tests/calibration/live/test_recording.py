"""Recordings of vLLM that were made before: the simulator steps as it did; and what a recording refuses, engine or not."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from calibration.live import recording, steps
from calibration.live.recording import Recorded
from simulator.cli import cli
from tests.calibration.live.live_engine import MODEL, TRACE
from tests.reference.lookup import measured
from tests.reference.suffix import replay_scored
from tests.reference.suffix_decoding import SuffixDecoding
from traces.errors import InputError

RECORDED = Path(__file__).with_name("recorded")
"""`calibrate vllm` of vLLM 0.32.0 on a CPU, as the command in its run.json says."""


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, int], Recorded]:
    return {(run.name, run.slots): run for run in recording.read(RECORDED)}


@pytest.mark.parametrize("slots", [4, 16])
@pytest.mark.parametrize("name", ["none", "ngram-2", "ngram-8"])
def test_every_step_is_vllms(runs: dict[tuple[str, int], Recorded], name: str, slots: int) -> None:
    found = steps.compare(runs[name, slots])
    assert found.first_difference is None
    assert found.equal_fraction == 1.0
    assert len(found.measured) == runs[name, slots].steps.num_rows > 50
    assert found.decisions is not None
    assert found.decisions[0] == found.decisions[1] > 3000 / slots
    assert (name == "none") == (found.measured.columns["drafted"].sum() == 0)


def test_every_step_is_vllms_under_our_own_drafter_and_policies() -> None:
    runs = list(recording.read(RECORDED.with_name("proposer")))
    assert sorted((run.name, run.slots) for run in runs) == [("das", 4), ("das", 16), ("fixed-8", 4), ("fixed-8", 16)]
    for run in runs:
        found = steps.compare(run)
        assert found.first_difference is None
        assert found.equal_fraction == 1.0
        assert found.measured.columns["accepted"].sum() > 500


def test_another_history_than_the_recorded_one_is_refused() -> None:
    run = next(recording.read(RECORDED.with_name("proposer")))
    about = run.about | {"rolloutsim": run.about["rolloutsim"] | {"history_sha256": "0"}}
    with pytest.raises(InputError, match="SHA-256 is another"):
        steps.compare(Recorded(run.name, run.slots, run.repeat, run.trace, run.steps, about))


def test_steps_are_vllms_where_kv_runs_out() -> None:
    runs = {run.name: steps.compare(run) for run in recording.read(RECORDED.with_name("short_of_kv"))}
    for name, preempted in (("ngram-4", 16), ("none", 21)):
        # none: at step 198 a preempted rollout finds its first block in use by another, which begins with the same 25 tokens
        assert runs[name].first_difference is None
        assert runs[name].measured.columns["preempted"].sum() == preempted


def test_sums_of_suffix_steps_are_close(runs: dict[tuple[str, int], Recorded]) -> None:
    """Ties and the order within a step go another way, which moves single steps and hardly their sums."""
    for name in ("suffix-8", "local"):
        for slots in (4, 16):
            told = steps.told(steps.compare(runs[name, slots]))
            for column in ("drafted", "accepted"):
                assert told[column]["simulated"] == pytest.approx(told[column]["measured"], rel=0.04), (name, column)


def test_suffix_drafts_are_alike_where_nobody_else_matters(runs: dict[tuple[str, int], Recorded]) -> None:
    for slots in (4, 16):
        decisions = steps.compare(runs["local", slots]).decisions
        assert decisions is not None
        assert 0.99 * decisions[0] < decisions[1] < decisions[0]
        assert steps.compare(runs["suffix-8", slots]).decisions is None


def test_suffix_drafts_that_differ_are_ties(runs: dict[tuple[str, int], Recorded]) -> None:
    """Each draft of vLLM's is one that some way to resolve equal counts gives: by brute force, from prompt and output alone."""
    run = runs["local", 16]
    shares, settings = steps.shares_of(run), run.about["speculative"]
    prompts, outputs = (run.trace.table.column(name).to_pylist() for name in ("prompt_token_ids", "token_ids"))
    admitted = {
        rollout: replay_scored(
            None, prompts[rollout], outputs[rollout], settings["num_speculative_tokens"],
            depth=settings["suffix_decoding_max_tree_depth"], factor=settings["suffix_decoding_max_spec_factor"],
            min_prob=settings["suffix_decoding_min_token_prob"],
        )
        for rollout in range(0, len(outputs), 4)
    }  # fmt: skip
    checked = ambiguous = 0
    for rollout, position, accepted, drafted in zip(
        shares.rollout.tolist(),
        shares.position.tolist(),
        shares.accepted.tolist(),
        shares.drafted.tolist(),
        strict=True,
    ):
        if rollout in admitted and position > 0:
            assert (accepted, drafted) in admitted[rollout][position], (rollout, position)
            checked, ambiguous = checked + 1, ambiguous + (len(admitted[rollout][position]) > 1)
    assert checked > 500
    assert ambiguous < 0.3 * checked


@pytest.mark.parametrize("slots", [4, 16])
def test_drafts_of_the_global_cache_are_those_of_one_sequence_after_the_other(
    runs: dict[tuple[str, int], Recorded], slots: int
) -> None:
    """By brute force: told which row is drafted for first, and what was sampled past ends, each draft of vLLM's is admitted."""
    run = runs["suffix-8", slots]
    shares, settings = steps.shares_of(run), run.about["speculative"]
    prompts, outputs = (run.trace.table.column(name).to_pylist() for name in ("prompt_token_ids", "token_ids"))
    depth, factor, min_prob = (
        settings[f"suffix_decoding_{name}"] for name in ("max_tree_depth", "max_spec_factor", "min_token_prob")
    )
    engine = SuffixDecoding(depth, factor, min_prob)
    rows, sampled = steps.flat(run.steps, "row"), steps.flat(run.steps, "emitted")
    beyond = iter(steps.flat(run.steps, "beyond").tolist())
    past_ends = [[next(beyond) for _ in range(extra)] for extra in (sampled - shares.emitted).tolist()]
    admitted: dict[int, set[tuple[int, int]]] = {}
    checked = ambiguous = 0
    for i in np.lexsort((rows, shares.step)).tolist():
        rollout, p, emitted = (int(of[i]) for of in (shares.rollout, shares.position, shares.emitted))
        if p > 0:
            assert (shares.accepted[i], shares.drafted[i]) in admitted[rollout], (rollout, p)
            checked, ambiguous = checked + 1, ambiguous + (len(admitted[rollout]) > 1)
        if emitted == 0:  # a prompt that is not computed to its end
            continue
        tokens, ahead = [*outputs[rollout][p : p + emitted], *past_ends[i]], outputs[rollout][p + emitted :]
        drafts = engine.propose(rollout, prompts[rollout], tokens, settings["num_speculative_tokens"])
        admitted[rollout] = {measured(draft, ahead) for draft, _ in drafts}
    assert checked == (shares.position > 0).sum() > 1000
    assert ambiguous < 0.4 * checked


def test_a_wrong_step_is_found(runs: dict[tuple[str, int], Recorded]) -> None:
    run = runs["ngram-8", 4]
    table = run.steps.to_pydict()
    step = next(i for i, drafted in enumerate(table["drafted"]) if max(drafted) >= 2)
    share = table["drafted"][step].index(max(table["drafted"][step]))
    table["drafted"][step][share] -= 1
    wrong = Recorded(run.name, run.slots, run.repeat, run.trace, pa.table(table, run.steps.schema), run.about)
    found = steps.compare(wrong)
    assert found.first_difference == step
    assert found.decisions is not None
    assert found.decisions[0] - found.decisions[1] == 1
    assert found.same.sum() == len(found.measured) - 1


def test_steps_of_another_run_are_refused(runs: dict[tuple[str, int], Recorded]) -> None:
    run = runs["none", 4]
    short = Recorded(run.name, run.slots, run.repeat, run.trace, run.steps.slice(0, 40), run.about)
    with pytest.raises(InputError, match="not of one run"):
        steps.compare(short)


def test_a_method_without_a_drafter_is_refused(runs: dict[tuple[str, int], Recorded]) -> None:
    run = runs["none", 4]
    about = run.about | {"speculative": {"method": "medusa", "num_speculative_tokens": 3}}
    with pytest.raises(InputError, match="medusa"):
        steps.compare(Recorded(run.name, run.slots, run.repeat, run.trace, run.steps, about))


def test_the_simulation_is_of_the_runs_own_settings(runs: dict[tuple[str, int], Recorded]) -> None:
    found = steps.facts_of(runs["none", 16])
    assert (found.max_num_seqs, found.enable_prefix_caching, found.block_size) == (16, True, 32)
    assert steps.drafting_of(runs["local", 4]).drafter["scope"] == "request"


def test_the_command_shows_each_run_and_what_differs_first() -> None:
    told = CliRunner().invoke(cli, ["validate", str(RECORDED), "--steps"])
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    assert sum(line.count("100.00%") == 2 for line in lines) == 6
    assert sum("differs first" in line for line in lines) == 4
    as_json = json.loads(CliRunner().invoke(cli, ["validate", str(RECORDED), "--steps", "--json"]).output)
    assert [run["equal_fraction"] for run in as_json["runs"]].count(1.0) == 6


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--speculative-config", "nope"], "is not JSON"),
        (["--speculative-config", "{}"], "no object with a method"),
        (["--speculative-config", "none", "--speculative-config", "none"], "is there twice"),
        (["--speculative-config", "../x=none"], "name it with letters"),
        (["--speculative-config", "none", "--engine", "max_num_seqs=3"], "option of its own"),
        (["--speculative-config", "none", "--step", "99"], "has no RL step 99"),
        (["--speculative-config", "none", "--python", "/nowhere/python"], "cannot be run"),
        (["--speculative-config", "none", "--python", sys.executable], "has no vLLM"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_one_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    asked = ["calibrate", "vllm", str(TRACE), "--model", str(MODEL), "--out", str(tmp_path / "R"), *arguments]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code != 0
    assert told in (result.output + str(result.exception))
    assert not list((tmp_path / "R").glob("*.parquet"))


@pytest.mark.parametrize("flag", ["--router=least_loaded", "--profile=x", "--set=block_size=3"])
def test_flags_that_steps_would_silence_are_refused(flag: str) -> None:
    told = CliRunner().invoke(cli, ["validate", str(RECORDED), "--steps", flag])
    assert told.exit_code == 2
    assert f"{flag.split('=')[0]}: does not go with --steps" in told.output


def test_what_is_no_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    def told() -> str:
        return str(CliRunner().invoke(cli, ["validate", str(tmp_path), "--steps"]).exception)

    assert "run.json: cannot be read" in told()
    (tmp_path / "run.json").write_text("{}")
    assert "run.json: give a folder as" in told()
    shutil.copy(RECORDED / "run.json", tmp_path)
    assert "holds no run that is done" in told()
    shutil.copy(RECORDED / "none-at-4.0.parquet", tmp_path / "none-at-4.0.steps.parquet")
    shutil.copy(RECORDED / "none-at-4.0.parquet", tmp_path)
    assert "has other columns than" in told()
    shutil.copy(RECORDED / "none-at-4.0.steps.parquet", tmp_path)
    shutil.copy(TRACE, tmp_path / "none-at-4.0.parquet")
    assert "says nothing of speculative" in told()
    (tmp_path / "none-at-4.0.steps.parquet").write_bytes((RECORDED / "none-at-4.0.steps.parquet").read_bytes()[:3000])
    assert "is not a whole Parquet file" in told()


def test_another_question_is_refused_in_the_same_folder(tmp_path: Path) -> None:
    out = tmp_path / "R"
    shutil.copytree(RECORDED, out)
    asked = ["calibrate", "vllm", str(TRACE), "--model", str(MODEL), "--speculative-config", "none", "--out", str(out)]
    result = CliRunner().invoke(cli, asked)
    assert "holds another recording" in str(result.exception)
    assert sorted(one.name for one in out.iterdir()) == sorted(one.name for one in RECORDED.iterdir())
