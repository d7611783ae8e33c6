"""The rows of an engine: who they are, and that they are learnt and drafted for as the simulator does it."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.deploy.sequences import Sequences
from simulator.drafting.drafter import past_rows
from simulator.drafting.history import Forest
from simulator.drafting.suffix import Suffix
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import workload_of
from tests.deploy.toy_engine import Int32, Request, ToyEngine
from tests.drafting.rollouts import NAMES, Case, sequence
from tests.engine.workloads import affine_pair
from traces.trace import Trace

UNIT, _ = affine_pair(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
END = 77


@dataclass
class FixedBudget:
    sequences: Sequences
    budget: int

    def propose(self, sampled: list[list[int]], counts: Int32, rows: Int32) -> list[list[int]]:
        places = self.sequences.take_in(rows, counts[: len(sampled)].copy(), np.array([len(one) for one in sampled]))
        self.sequences.records["budget"][places] = self.budget
        return self.sequences.draft()


def random_case(rng: random.Random) -> Case:
    """Rollouts that end with a token of their own; prompts that differ."""
    prompts = rng.randint(1, 3)
    past = [[sequence(rng, rng.randint(1, 25), 3) for _ in range(rng.randint(0, 2))] for _ in range(prompts)]
    now = [[[*sequence(rng, rng.randint(1, 25), 3), END] for _ in range(rng.randint(1, 4))] for _ in range(prompts)]
    return Case(
        [[NAMES[rng.randrange(3)] for _ in range(rng.randint(1, 4))] + [1000 + i] for i in range(prompts)], past, now
    )


def requests_of(case: Case, rng: random.Random) -> list[Request]:
    return [
        Request(case.prompts[prompt], output, sequence(rng, 30, 3) if rng.random() < 0.5 else output[:-1] * 30)
        for prompt, group in enumerate(case.now)
        for output in group
    ]


def sequences_of(trace: Trace, drafter: Suffix, case: Case, slots: int, most: int) -> Sequences:
    history = drafter.learn(trace, past_rows(trace, 1, drafter.window))
    prompts = {np.array(case.prompts[int(name[1:])], np.int32).tobytes(): i for i, name in enumerate(trace.prompt_ids)}
    return Sequences(drafter, history, prompts, len(trace.prompt_ids), slots, 200, most, [END])


@pytest.mark.parametrize("match", ["longest", "scored"])
@pytest.mark.parametrize("scope", ["problem", "global"])
def test_drafts_are_those_of_the_simulated_live_siblings(scope: str, match: str) -> None:
    rng = random.Random(f"{scope}{match}")
    past_end = 0
    for _ in range(60):
        case = random_case(rng)
        drafter = Suffix(scope=scope, match=match, own=rng.random() < 0.7, depth=rng.randint(2, 9),
                         factor=rng.choice((0.5, 1.0, 2.0)), min_prob=rng.choice((0.0, 0.1)), siblings="live",
                         prompt=rng.random() < 0.7)  # type: ignore[arg-type]  # fmt: skip
        trace, budget, slots = case.trace(), rng.choice((0, 1, 3, 12)), rng.randint(1, 5)
        rows, past = np.flatnonzero(trace.step == 1), past_rows(trace, 1, drafter.window)
        workload = workload_of(
            trace, rows, drafter.accept(trace, rows, past), drafter.sibling_index(trace, rows, past), False
        )
        expected = simulate(workload, by_live([budget]), Deployment(UNIT, slots)).rollouts
        requests = requests_of(case, rng)
        sequences = sequences_of(trace, drafter, case, slots, 12)
        ToyEngine(requests, slots, FixedBudget(sequences, budget), rng).run()
        found = [(one.steps, one.drafted, one.accepted) for one in requests]
        assert found == expected[["steps", "drafted", "accepted"]].tolist()
        past_end += sum(one.emitted > len(one.output) for one in requests)
        assert sequences.begun == len(requests)
        assert not sequences.new
    assert past_end, "some sequences were sampled beyond their end"


def test_sequences_that_leave_and_come_back_are_known_again() -> None:
    rng = random.Random(5)
    for _ in range(60):
        case = random_case(rng)
        drafter, slots = Suffix(siblings="live"), rng.randint(2, 5)
        sequences = sequences_of(case.trace(), drafter, case, slots, 4)
        requests = requests_of(case, rng)
        ToyEngine(requests, slots, FixedBudget(sequences, 4), rng, preempted=0.3).run()
        assert sequences.begun == len(requests), "nobody is taken for somebody else"
        assert all(one.emitted >= len(one.output) for one in requests)


def test_groups_get_room_as_they_grow_and_old_sequences_make_way() -> None:
    drafter = Suffix(siblings="live", prompt=False)
    nothing = np.zeros(1, np.int64)
    sequences = Sequences(drafter, Forest({}, nothing - 1, nothing, nothing, drafter.depth), {}, 0, 2, 6000, 8)
    period = [5, 6, 7, 8, 9]
    for number in range(12):  # of places for 8
        rows = np.array([[1, *((period * 1200)[:5999])]], np.int32)
        for known in range(2, 1002 if number else 5900):
            sequences.take_in(rows, np.array([known], np.int32), np.array([1]))
            sequences.records["budget"] = 8
            draft = sequences.draft()
            if known > 12:
                assert len(draft[0]) >= 5
                assert draft[0] == rows[0, known : known + len(draft[0])].tolist()
    assert (sequences.begun, len(sequences.new)) == (12, 1)


def test_another_turn_goes_on_from_the_last_and_a_stop_is_no_end_for_good() -> None:
    drafter = Suffix(siblings="live")
    nothing = np.zeros(1, np.int64)
    sequences = Sequences(drafter, Forest({}, nothing - 1, nothing, nothing, drafter.depth), {}, 0, 2, 100, 8, [END])

    def step(tokens: list[int], emitted: int) -> list[list[int]]:
        rows = np.zeros((2, 100), np.int32)
        rows[0, : len(tokens)] = tokens
        sequences.take_in(rows, np.array([len(tokens)], np.int32), np.array([emitted]))
        sequences.records["budget"] = 8
        return sequences.draft()

    assert step([1, 2, 3, 1, 2], 2) == [[3, 1]]
    assert step([1, 2, 3, 1, 2, END, 9, 9], 3) == [[]]
    assert sequences.records["position"].max() == 6, "nothing beyond the end is learnt"
    assert step([1, 2, 3, 1, 2, END, 50, 51, 52, 3], 1) != [[]]
    assert sequences.begun == 1
