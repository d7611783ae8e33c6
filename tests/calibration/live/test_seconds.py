"""Seconds of a recording: costs that it was made from come back, what steps do is priced as simulated, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from calibration.live import recording, seconds, steps
from calibration.live.recording import Recorded
from calibration.live.seconds import Repeated
from calibration.live.work import work_of
from simulator.cli import cli
from simulator.cost import Affine, load_profile
from simulator.cost.draft_cost import FREE, DraftCost
from simulator.cost.model import Profile
from simulator.cost.operators import row
from simulator.drafting.cost import load_draft_cost
from traces.errors import InputError

TIMED = Path(__file__).with_name("timed")
"""`calibrate vllm` of vLLM 0.32.0 on a CPU, as the command in its run.json says."""
STEP = {"constant": 4e-3, "live": 5e-5, "query_tokens": 4e-5, "kv_tokens": 2e-7, "pairs": 1e-7, "prefill_tokens": 6e-5}
DRAFTS = {
    "ngram": DraftCost(per_step_s=1e-3, per_query_s=1e-5, per_drafted_token_s=2e-6, per_emitted_token_s=3e-6),
    "suffix-global": DraftCost(per_step_s=1e-3, per_query_s=4e-5, per_drafted_token_s=3e-6, per_emitted_token_s=1e-5),
}
PROFILE = Profile(
    "made",
    "affine",
    (Affine("step", row(**STEP)),),
    "a model",
    "a device",
    "made up for this test",
    "none: it is made up",
)
FITTED = ["none@4", "none@16", "ngram-4@4", "ngram-4@16"]


@pytest.fixture(scope="module")
def runs() -> list[Recorded]:
    return list(recording.read(TIMED))


def drafting_of(run: Recorded) -> DraftCost:
    name = seconds.repeated([run])[0].drafter
    return FREE if name is None else DRAFTS[name]


def timed(run: Recorded, start_s: list[float], drafting_s: list[float], whole_s: float) -> Recorded:
    """The same run at other times."""
    table = run.steps
    for name, values in (("start_s", start_s), ("drafting_s", drafting_s)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.float64()))
    return replace(run, steps=table.select(list(recording.STEPS)), about=run.about | {"seconds": whole_s})


def simulated(run: Recorded) -> Recorded:
    """The run at the times of its simulation, drafts made in the step before theirs."""
    log = steps.simulated(run, PROFILE, drafting_of(run))[1].logs[0]
    drafting_s = np.append(log["draft_s"][1:], 0.0)
    start_s = np.concatenate([[0.0], np.cumsum(log["duration_s"] - log["draft_s"] + drafting_s)])
    return timed(run, start_s[:-1].tolist(), drafting_s.tolist(), float(start_s[-1]))


def made(run: Recorded) -> Recorded:
    """The run as it would have been recorded on a machine of the costs above."""
    work, cost = work_of(run), drafting_of(run)
    drafts = (
        cost.per_step_s * np.sign(work["asking"]) + cost.per_query_s * work["asking"]
        + cost.per_drafted_token_s * work["drafted_tokens"]
    )  # fmt: skip
    drafts[1:] += np.where(work["asking"][1:] > 0, cost.per_emitted_token_s * work["emitted_tokens"][:-1], 0.0)
    drafting_s = np.append(drafts[1:], 0.0)
    step_s = np.sum([STEP[name] * work[name] for name in STEP], axis=0)
    start_s = np.concatenate([[0.0], np.cumsum(step_s + drafting_s)])
    return timed(run, start_s[:-1].tolist(), drafting_s.tolist(), float(start_s[-1]))


def test_what_a_step_did_is_what_the_simulator_prices(runs: list[Recorded]) -> None:
    for run in runs:
        if run.name == "suffix-8":
            continue
        log, work = steps.simulated(run, PROFILE)[1].logs[0], work_of(run)
        for name in ("live", "kv_tokens", "prefill_tokens", "emitted_tokens"):
            assert (work[name] == log[name]).all(), (run.name, name)
        for name in ("query_tokens", "pairs"):  # drafts past the end of a rollout were verified all the same
            differing = work[name] != log[name]
            assert (work[name] >= log[name]).all()
            assert not differing.any() if run.name == "none" else differing.mean() < 0.1


def test_costs_that_a_recording_is_made_from_come_back(runs: list[Recorded]) -> None:
    found = seconds.repeated([made(run) for run in runs])
    costs = seconds.fit(found, FITTED, "a model")
    (step,) = costs.profile.operators
    assert isinstance(step, Affine)
    assert step.row_s[: len(STEP)] == pytest.approx(list(STEP.values()), rel=1e-3)
    for name, cost in DRAFTS.items():
        assert costs.drafting[name].rates == pytest.approx(cost.rates, rel=1e-2), name
    assert costs.borrowed == {"suffix-global"}
    assert costs.told_by["suffix-global"] == ["suffix-8@4"]


def test_a_recording_at_simulated_times_is_predicted(runs: list[Recorded]) -> None:
    found = seconds.repeated([simulated(run) for run in runs if run.name != "suffix-8"])  # which parts on ties
    fitted = FITTED[:3]
    for one in seconds.predict(seconds.fit(found, fitted, "a model"), found, fitted):
        assert abs(one.error) < 0.01, one.run.label
        assert one.error_by_steps == pytest.approx(one.error), "repeats do not differ"


def test_a_stall_in_one_of_three_repeats_moves_no_cost(runs: list[Recorded]) -> None:
    quiet = [made(run) for run in runs if run.repeat == 0]
    three = []
    for run in quiet:
        start_s, drafting_s = (run.steps.column(name).to_numpy().copy() for name in ("start_s", "drafting_s"))
        start_s[20:] += 5.0
        stalled = timed(run, start_s.tolist(), drafting_s.tolist(), run.about["seconds"] + 5.0)
        three += [run, replace(stalled, repeat=1), replace(run, repeat=2)]
    alone, beside = (seconds.fit(seconds.repeated(some), FITTED, "a model") for some in (quiet, three))
    assert beside.profile.operators == alone.profile.operators
    assert beside.drafting == alone.drafting


def test_repeats_that_took_other_steps_count_by_the_one_in_the_middle(runs: list[Recorded]) -> None:
    one, other = [run for run in runs if (run.name, run.slots) == ("none", 4)][:2]
    cut = replace(other, steps=other.steps.slice(0, 30), about=other.about | {"seconds": 1e9})
    (found,) = seconds.repeated([one, cut])
    assert found.step_s.size == one.steps.num_rows
    assert found.step_s.sum() == pytest.approx(found.measured_s) == (one.about["seconds"] + 1e9) / 2


def test_only_pairs_that_their_repeats_separate_are_ordered(runs: list[Recorded]) -> None:
    def predicted(makespans_s: list[float], simulated_s: float, fitted: bool = False) -> seconds.Predicted:
        nothing = np.zeros(1)
        run = Repeated(runs[:1], np.array(makespans_s), nothing, nothing, 1.0)
        return seconds.Predicted(run, simulated_s, 0.0, fitted, 1.0, (0.9, 1.1))

    fast, slow, between = (
        predicted([1.0, 2.0], 1.5, fitted=True),
        predicted([3.0, 4.0], 1.0),
        predicted([1.9, 3.1], 9.0),
    )
    assert seconds.ordered([fast, slow]) == (1, 0)
    assert seconds.ordered([fast, replace(slow, simulated_s=2.0)]) == (1, 1)
    assert seconds.ordered([fast, slow, between]) == (1, 0)
    assert seconds.ordered([fast, replace(slow, fitted=True)]) == (0, 0), "both are what the costs are from"


def test_the_command_predicts_the_runs_that_are_not_fitted(tmp_path: Path) -> None:
    asked = ["validate", str(TIMED), "--seconds", *(word for label in FITTED for word in ("--fit", label))]
    told = CliRunner().invoke(cli, [*asked, "--out", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert sum(line.endswith("fitted") for line in told.output.splitlines()) == 4
    assert "time to draft, suffix-global: from drafting_s of suffix-8@4, not its makespan" in told.output
    found = json.loads(CliRunner().invoke(cli, [*asked, "--json"]).output)
    assert found == json.loads((tmp_path / "seconds.json").read_text())
    for run in found["runs"]:
        assert abs(run["error"]) < (0.3 if run["fitted"] else 0.6), "recorded on a busy machine, with two repeats"
    assert found["predicted"] == 2
    assert load_profile(tmp_path / "profile.yaml").drafter_costs.keys() == {"ngram", "suffix-global"}
    whole, host = (load_draft_cost(str(tmp_path / f"{name}.yaml")) for name in ("ngram", "ngram-host"))
    assert whole.per_step_s > 0
    assert all(0 <= part <= whole.rates[rate] for rate, part in host.rates.items())
    assert 0 < sum(host.rates.values()) < sum(whole.rates.values()), "verifying drafts is not the host's"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seconds", "--fit", "none@5"], "--fit none@5: is no run of the recording: give none@4"),
        (["--seconds"], "give both"),
        (["--fit", "none@4"], "give both"),
        (["--steps", "--seconds"], "--seconds: does not go with --steps"),
        (["--seconds", "--fit", "none@4", "--profile", "x"], "--profile: does not go with --seconds"),
    ],
)
def test_what_cannot_be_priced_is_refused_in_one_line(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(cli, ["validate", str(TIMED), *arguments])
    assert result.exit_code != 0
    assert told in (result.output + str(result.exception))


def test_a_recording_without_the_time_to_draft_is_refused() -> None:
    older = list(recording.read(TIMED.with_name("short_of_kv")))
    assert older[0].steps.column("drafting_s").null_count == older[0].steps.num_rows
    with pytest.raises(InputError, match="do not say how long drafting took: record it again"):
        seconds.repeated(older)
