"""The serving engine on a real decoder does in every step what the simulator's engine does."""

from pathlib import Path

import numpy as np
import pytest

from calibration.truth import ground_truth
from calibration.truth.chosen import Choice, chosen
from calibration.truth.compare import compare, verdicts
from calibration.truth.engine import StepTime
from calibration.truth.replay import replay
from simulator.drafting.suffix import Suffix
from tests.calibration.truth.decoding import COSTS, made_up, settings
from traces.errors import InputError

POLICIES = ["none", "fixed:3", "unlimited", "threshold:4@3", "das:short=20,long=40,budgets=0/2/7", "das"]


@pytest.mark.parametrize(
    "drafter", [Suffix(factor=2.0), Suffix(scope="global", own=False), Suffix(scope="request", depth=5)]
)
@pytest.mark.parametrize("choice", [Choice(1), Choice(1, 5, 17), Choice(1, 6, None, 64)])
def test_every_step_does_the_same_work_as_the_simulators(tmp_path: Path, choice: Choice, drafter: Suffix) -> None:
    """`compare` refuses where live sequences, tokens, drafts or acceptances of any step differ."""
    trace = made_up(tmp_path)
    truth = replay(settings(POLICIES, choice=choice, drafter=drafter), trace, "test")
    found = compare(truth, trace, COSTS)
    assert [one.policy for one in found] == POLICIES
    accepted = sum(steps[:, StepTime._fields.index("accepted_tokens")].sum() for steps in truth.steps)
    assert accepted > 20 or drafter.scope == "request"
    part, rows, _ = chosen(trace, choice, drafter.window)
    emitted = part.output_tokens[rows].sum() - (rows.size if choice.context_tokens else 0)
    for steps in truth.steps:
        assert steps[:, StepTime._fields.index("emitted_tokens")].sum() == emitted


def test_a_step_that_does_other_work_is_refused(tmp_path: Path) -> None:
    trace = made_up(tmp_path)
    truth = replay(settings(["fixed:3"]), trace, "test")
    truth.steps[0][7, StepTime._fields.index("drafted_tokens")] += 1
    with pytest.raises(InputError, match="drafted_tokens differs first in step 7"):
        compare(truth, trace, COSTS)


def test_ground_truth_is_read_back(tmp_path: Path) -> None:
    trace = made_up(tmp_path)
    truth = replay(settings(["das", "none"], repeats=2), trace, "test")
    ground_truth.write(truth, tmp_path / "r.parquet")
    again = ground_truth.read(tmp_path / "r.parquet")
    assert again.runs == truth.runs
    assert again.about["choice"] == {"step": 1, "rollouts": None, "max_output_tokens": None, "context_tokens": None}
    for one, other in zip(again.steps, truth.steps, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(compare(again, trace, COSTS), compare(truth, trace, COSTS), strict=True):
        assert one.row() == other.row()


def test_makespans_span_the_steps(tmp_path: Path) -> None:
    truth = replay(settings(["none"]), made_up(tmp_path), "test")
    steps, run = truth.steps[0], truth.runs[0]
    assert steps[:, 1].sum() <= run.makespan_s <= 1.5 * steps[:, 1].sum() + 0.1
    assert (np.diff(steps[:, 0]) >= steps[:-1, 1] - 1e-9).all()
    assert (steps[:, 2] <= steps[:, 1]).all()


def test_what_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    trace = made_up(tmp_path)
    with pytest.raises(InputError, match="no RL step 7: use one of 0 to 1"):
        replay(settings(["none"], choice=Choice(7)), trace, "test")
    with pytest.raises(InputError, match="has 16 rollouts, not 99"):
        replay(settings(["none"], choice=Choice(1, 99)), trace, "test")
    with pytest.raises(InputError, match="16 rollouts begin at once on 6 slots"):
        replay(settings(["none"], choice=Choice(1, None, None, 50)), trace, "test")
    with pytest.raises(InputError, match="'goodput' decides while it runs"):
        replay(settings(["goodput"]), trace, "test")
    truth = replay(settings(["none"], choice=Choice(1, 2, 3)), trace, "test")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="give that trace"):
        compare(truth, made_up(tmp_path / "other", seed=6), COSTS)
    with pytest.raises(InputError, match="not ground truth"):
        ground_truth.read(Path(trace.source))


def test_verdicts_tell_a_wrong_order_and_its_regret(tmp_path: Path) -> None:
    trace = made_up(tmp_path)
    truth = replay(settings(["none", "fixed:3"], repeats=1), trace, "test")
    found = {one.policy: one for one in compare(truth, trace, COSTS)}
    for policy, measured, simulated in (("none", 2.0, 1.0), ("fixed:3", 1.0, 1.5)):
        object.__setattr__(found[policy], "measured_s", measured)
        object.__setattr__(found[policy], "simulated_s", simulated)
    (wrong,) = verdicts(list(found.values()))
    assert (wrong.fastest, wrong.chosen, wrong.regret, wrong.order_kept) == ("fixed:3", "none", 1.0, False)
    object.__setattr__(found["none"], "simulated_s", 1.7)
    (right,) = verdicts(list(found.values()))
    assert (right.chosen, right.regret, right.kendall_tau, right.order_kept) == ("fixed:3", 0.0, 1.0, True)
