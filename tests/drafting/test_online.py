"""The drafter that serves a live batch against the tables of what would be drafted and accepted."""

import random

import numpy as np
import pytest

from simulator.drafting.layout import prompts_of
from simulator.drafting.online import OnlineSuffix
from simulator.drafting.suffix import Suffix
from tests.drafting.rollouts import Case, sequence
from traces.errors import InputError


def case(seed: int) -> Case:
    rng = random.Random(seed)

    def group() -> list[list[int]]:
        return [sequence(rng, rng.randint(1, 40), 3) for _ in range(3)]

    return Case(
        [sequence(rng, rng.randint(1, 9), 3) for _ in range(2)],
        [group() for _ in range(2)],
        [group() for _ in range(2)],
    )


@pytest.mark.parametrize("scope", ["problem", "global", "request"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_proposes_what_the_tables_say(seed: int, own: bool, scope: str) -> None:
    if scope == "request" and not own:
        return
    trace = case(seed).trace()
    past, rows = np.flatnonzero(trace.step == 0), np.flatnonzero(trace.step == 1)
    drafter = Suffix(scope=scope, own=own, depth=6, factor=1.5, min_prob=0.2, prompt=seed % 2 == 0)  # type: ignore[arg-type]
    acceptance = drafter.accept(trace, rows, past)
    history = drafter.learn(trace, past)
    group = {"problem": trace.prompt[rows], "global": np.zeros(rows.size, int), "request": np.zeros(rows.size, int)}[
        scope
    ]
    at = np.full(rows.size, -1) if scope == "request" else history.at[group]
    room = (trace.prompt_tokens[rows] + trace.output_tokens[rows]).astype(np.int64)
    online = OnlineSuffix(drafter, history, at, room)
    online.begin(np.arange(rows.size), prompts_of(trace, rows, drafter.prompt))
    emitted, live = np.zeros(rows.size, int), np.arange(rows.size)
    draw = np.random.default_rng(seed)
    lengths = trace.output_tokens[rows]
    while live.size:
        left = (lengths[live] - emitted[live]).astype(np.int64)
        most = np.minimum(draw.integers(0, 9, live.size), left)
        drafts, counts = online.propose(live, most)
        place = acceptance.offsets[live] + emitted[live]
        assert (counts == np.minimum(acceptance.tables[0, place, 1], most)).all()
        tokens = [trace.tokens[trace.offsets[rows[i]] + emitted[i] : trace.offsets[rows[i] + 1]] for i in live]
        right = [int(np.cumprod(drafts[j, : counts[j]] == tokens[j][: counts[j]]).sum()) for j in range(live.size)]
        assert (np.array(right) == np.minimum(acceptance.tables[0, place, 0], most)).all()
        emit = np.minimum(draw.integers(1, 4, live.size), left)
        online.learn(
            live,
            np.concatenate([t[:e] for t, e in zip(tokens, emit, strict=True)]),
            np.concatenate([[0], emit.cumsum()]),
        )
        emitted[live] += emit
        gone = emitted[live] >= lengths[live]
        online.forget(live[gone])
        live = live[~gone]


def test_refuses_drafts_that_depend_on_the_budget_or_on_siblings() -> None:
    trace = case(0).trace()
    for drafter in (Suffix(match="scored"), Suffix(siblings="live")):
        with pytest.raises(InputError, match="match longest and siblings next-step"):
            OnlineSuffix(drafter, drafter.learn(trace, np.arange(1)), np.zeros(1, int), np.ones(1, int))
