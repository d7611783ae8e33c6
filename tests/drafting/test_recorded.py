"""A recorded drafter replays the drafter that it was recorded from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from simulator.budgets.resolve import resolve_policy
from simulator.cost.draft_cost import DraftCost
from simulator.drafting.acceptance import count_at
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.drafter import Drafter
from simulator.drafting.model import Modelled
from simulator.drafting.recorded import Recorded
from simulator.drafting.step_log import read_log
from simulator.engine.cluster import Outcome, simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.scenario import build
from tests.drafting.lengths import accepted_by, trace_of
from tests.engine.workloads import assert_equal, context_of
from tests.theory.queues import affine
from traces.errors import InputError
from traces.trace import Trace

K = 4
ORIGINAL = Modelled("eagle", AcceptanceCurve((0.8, 0.7, 0.9, 0.6), spread=0.1))
ROLLOUTS = [(step, f"p{p}", sample, 1 + 13 * p + 5 * sample) for step in (2, 5) for p in range(6) for sample in (0, 1)]
COST = affine(constant=1.0, query_tokens=0.125, kv_tokens=1 / 1024)


def recorded_everywhere() -> Trace:
    """The rollouts with what the original would have accepted at each of their positions."""
    bare = trace_of(ROLLOUTS)
    tables = accepted_by(ORIGINAL, bare)
    accepted = np.split(tables.tables[0][:, 0].astype(np.int32), tables.offsets[1:-1])
    return trace_of(ROLLOUTS, accept_lengths=pa.array([a.tolist() for a in accepted], pa.list_(pa.int32())))


def log_lines(overrun: int = 0) -> list[dict[str, Any]]:
    """What an engine would have written: rollout by rollout, step by step, after the prefill's token.

    overrun: tokens that the last step of a rollout accepts beyond its end, at most, behind an end-of-sequence token.
    """
    tables = accepted_by(ORIGINAL, trace_of(ROLLOUTS))
    lines = []
    for i, (step, prompt, sample, length) in enumerate(ROLLOUTS):
        accepted, drafted, p = [], [], 1
        while p < length:
            right, draft = (int(n) for n in tables.tables[0][tables.offsets[i] + p])
            if draft < K:  # an engine drafts on beyond the end
                right, draft = min(right + overrun, K) if right == length - p else right, K
            accepted.append(right)
            drafted.append(draft)
            p += right + 1
        found = {"num_spec_tokens": K, "per_step_accepted": accepted, "per_step_drafted": drafted}
        identity = {"step": step, "prompt_id": prompt, "sample": sample}
        lines.append({**identity, "usage": {}, "metrics": {"speculative_decoding": found}})
    return lines


def written(folder: Path, lines: list[Any]) -> Path:
    path = folder / "steps.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def outcome_of(drafter: Drafter, trace: Trace, policy: str, rows: npt.NDArray[np.int64] | None = None) -> Outcome:
    rows = np.arange(len(trace)) if rows is None else rows
    load = Workload(
        trace.prompt[rows].astype(np.int64), trace.sample[rows].astype(np.int64), trace.prompt_tokens[rows].astype(np.int64),
        trace.output_tokens[rows].astype(np.int64), accepted_by(drafter, trace, rows),
    )  # fmt: skip
    return simulate(load, resolve_policy(policy, context_of(COST, 5)), Deployment(COST, 5))


def assert_same(one: Outcome, other: Outcome) -> None:
    assert one.makespan_s == other.makespan_s
    assert_equal(one, other)


# accept_lengths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["none", "fixed:1", "fixed:3", f"fixed:{K}", "unlimited", "threshold:2@3"])
def test_recorded_lengths_replay_the_original_under_every_budget(policy: str) -> None:
    trace = recorded_everywhere()
    for rows in (np.arange(len(trace)), np.flatnonzero(trace.step == 5)[::-1]):
        assert_same(outcome_of(Recorded(K), trace, policy, rows), outcome_of(ORIGINAL, trace, policy, rows))


def test_recorded_lengths_must_be_there_and_fit_the_draft() -> None:
    with pytest.raises(InputError, match="has no accept_lengths"):
        accepted_by(Recorded(K), trace_of(ROLLOUTS))
    with pytest.raises(InputError, match="accept_lengths holds 4, more than draft_tokens = 3"):
        accepted_by(Recorded(3), recorded_everywhere())
    with pytest.raises(InputError, match="accept_lengths without draft_lengths, and draft_tokens is missing"):
        accepted_by(Recorded(None), recorded_everywhere())


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrun", [0, 3])
@pytest.mark.parametrize("policy", [f"fixed:{K}", f"fixed:{K + 3}", "unlimited"])
def test_recorded_steps_replay_the_recorded_run(tmp_path: Path, policy: str, overrun: int) -> None:
    trace = trace_of(ROLLOUTS)
    log = read_log(written(tmp_path, log_lines(overrun)[::-1]))
    assert log.draft_tokens == K
    for rows in (np.arange(len(trace)), np.flatnonzero(trace.step == 2)):
        replayed = outcome_of(Recorded(K, log), trace, policy, rows)
        assert_same(replayed, outcome_of(ORIGINAL, trace, f"fixed:{K}", rows))
    assert_same(outcome_of(Recorded(K, log), trace, "none"), outcome_of(ORIGINAL, trace, "none"))


def test_lines_without_identity_stand_in_the_order_of_the_trace(tmp_path: Path) -> None:
    trace = trace_of(ROLLOUTS)
    bare = [line["metrics"]["speculative_decoding"] for line in log_lines()]
    log = read_log(written(tmp_path, bare))
    rows = np.flatnonzero(trace.step == 5)
    assert_same(outcome_of(Recorded(K, log), trace, "fixed:4", rows), outcome_of(ORIGINAL, trace, "fixed:4", rows))
    with pytest.raises(InputError, match="24 lines without identity for the 23 rollouts"):
        accepted_by(Recorded(K, log), trace.select(np.arange(23)))


def test_smaller_budgets_are_refused_and_switching_ones_draft_at_recorded_steps_alone(tmp_path: Path) -> None:
    trace = trace_of(ROLLOUTS)
    drafter = Recorded(K, read_log(written(tmp_path, log_lines())))
    with pytest.raises(
        InputError, match=r"budget 2: .* with 4 drafted tokens, .* use budgets of 0 or of 4 and more, or off_"
    ):
        outcome_of(drafter, trace, "fixed:2")
    assert "nothing drafted off its steps" in drafter.describe()
    table = accepted_by(drafter, trace)
    counts, whole = count_at(table, K), count_at(accepted_by(ORIGINAL, trace), K)
    # Replayed from its first position, where the recording, after the prefill, has no step: one step more per rollout.
    assert counts.sequence_steps >= whole.sequence_steps
    switching = outcome_of(drafter, trace, f"threshold:{K}@2").rollouts["accepted"].sum()
    original = outcome_of(ORIGINAL, trace, f"threshold:{K}@2").rollouts["accepted"].sum()
    assert 0 < switching < original, "accepted tokens are understated, not invented"


BROKEN: dict[str, tuple[Callable[[list[Any]], Any], str]] = {
    "missing step": (lambda lines: lines[20]["metrics"]["speculative_decoding"]["per_step_accepted"].pop(),
                     "line 21: 1?[0-9] steps accepted, 1?[0-9] drafted"),
    "more accepted than drafted": (lambda lines: lines[20]["metrics"]["speculative_decoding"].update(
        per_step_accepted=[4], per_step_drafted=[3]), "line 21: step 0: 4 accepted of 3 drafted"),
    "longer than allowed": (lambda lines: lines[20]["metrics"]["speculative_decoding"].update(
        per_step_accepted=[4], per_step_drafted=[5]), "of at most 4: impossible"),
    "summary only": (lambda lines: lines[3]["metrics"]["speculative_decoding"].pop("per_step_accepted"),
                     "line 4: has no per_step_accepted: record with --per-request-spec-decode-metrics detailed"),
    "no metrics": (lambda lines: lines[3].update(metrics=None), "line 4: metrics is 'None', not an object"),
    "several settings": (lambda lines: lines[3]["metrics"]["speculative_decoding"].update(num_spec_tokens=5),
                         "line 4: num_spec_tokens is 5, 4 on earlier lines"),
    "no setting": (lambda lines: lines[3]["metrics"]["speculative_decoding"].update(num_spec_tokens=0),
                   "num_spec_tokens = 0"),
    "not counts": (lambda lines: lines[3]["metrics"]["speculative_decoding"].update(per_step_accepted=[0.5]),
                   "per_step_accepted is not a list of counts"),
    "half an identity": (lambda lines: lines[3].pop("sample"), "line 4: step 2, prompt_id 'p1', sample None"),
    "some identities": (lambda lines: [lines[3].pop(k) for k in ("step", "prompt_id", "sample")], "on some lines only"),
    "twice": (lambda lines: lines.append(lines[0]), r"line 25: \(2, 'p0', 0\) is on an earlier line already"),
    "a list": (lambda lines: lines.insert(0, []), r"line 1: the line is '\[\]', not an object"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_lines_are_refused_by_number(tmp_path: Path, change: Callable[[list[Any]], Any], message: str) -> None:
    lines = log_lines()
    change(lines)
    path = written(tmp_path, lines)
    with pytest.raises(InputError, match=message) as error:
        read_log(path)
    assert str(error.value).startswith(str(path))


def test_files_without_lines_or_without_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no lines"):
        read_log(written(tmp_path, []))
    (tmp_path / "x").write_text("{}\nnope\n")
    with pytest.raises(InputError, match="line 1: has no num_spec_tokens"):
        read_log(tmp_path / "x")
    (tmp_path / "x").write_text("nope\n")
    with pytest.raises(InputError, match="line 1: not JSON"):
        read_log(tmp_path / "x")


def test_steps_that_do_not_make_up_the_rollout_are_refused(tmp_path: Path) -> None:
    trace = trace_of(ROLLOUTS)
    lines = log_lines()
    steps = lines[11]["metrics"]["speculative_decoding"]
    for name in ("per_step_accepted", "per_step_drafted"):
        steps[name] = steps[name][:-1]
    drafter = Recorded(K, read_log(written(tmp_path, lines)))
    with pytest.raises(
        InputError, match=r"step 2, prompt 'p5', sample 1: .* too few for its 71 .* without a draft too"
    ):
        accepted_by(drafter, trace)
    for name in ("per_step_accepted", "per_step_drafted"):
        steps[name] += [0, 0, 0, 0, 0, 0]
    drafter = Recorded(K, read_log(written(tmp_path, lines)))
    with pytest.raises(InputError, match="more than it needs for its 71"):
        accepted_by(drafter, trace)
    short = Recorded(K, read_log(written(tmp_path, log_lines()[1:])))
    with pytest.raises(InputError, match="has no line for step 2, prompt 'p0', sample 0"):
        accepted_by(short, trace)


# Settings -------------------------------------------------------------------------------------------------------------


def drafter_of(**settings: object) -> Drafter:
    return build({"trace": "t", "profile": "p", "policies": ["none"], "drafter": settings}).drafter.drafter()


def test_settings(tmp_path: Path) -> None:
    assert drafter_of(kind="recorded", draft_tokens=3, cost={"per_pass_s": 1e-3}).cost == DraftCost(per_pass_s=1e-3)
    path = str(written(tmp_path, log_lines()))
    from_log = drafter_of(kind="recorded", steps=path, cost="eagle")
    assert isinstance(from_log, Recorded)
    assert from_log.draft_tokens == K
    assert not from_log.needs_tokens
    assert from_log.off_steps == "nothing"
    bounded = drafter_of(kind="recorded", steps=path, cost={}, off_steps="most")
    assert isinstance(bounded, Recorded)
    assert "most that can be accepted off its steps" in bounded.describe()
    with pytest.raises(InputError, match="off_steps = 'least' without a file of recorded decode steps"):
        drafter_of(kind="recorded", draft_tokens=3, cost={}, off_steps="least")
    with pytest.raises(InputError, match=r"draft_tokens = 3, but .* was recorded with 4"):
        drafter_of(kind="recorded", steps=path, draft_tokens=3, cost={})
