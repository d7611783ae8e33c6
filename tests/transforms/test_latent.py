"""Latent steps in place of spans: positions, ids that nothing else has, and what drafters make of them."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from simulator.drafting.drafter import accepted, past_rows
from simulator.drafting.last import Last
from simulator.drafting.ngram import Ngram
from simulator.drafting.suffix import Suffix
from simulator.testing import example_trace
from simulator.transforms.latent import Latent
from simulator.transforms.resolve import resolve_transform
from tests.transforms.traces import by_name, random_trace, trace_of
from traces.errors import InputError
from traces.trace import Trace
from traces.validation import validate


def latent_spans(trace: Trace, span: int, share: float, seed: int) -> dict[Any, list[bool]]:
    """Which spans are latent, read off the lengths of rollouts cut down to each span alone."""
    found = {}
    for name, row in by_name(trace).items():
        ends = range(0, row["output_tokens"] + 1, span)
        lengths = []
        for end in ends:
            alone = trace_of(
                **{key: [row[key]] for key in ("step", "prompt_id", "sample")}, output_tokens=[max(end, 1)]
            )
            lengths.append(int(Latent(span, 1, share).rollouts(alone, seed).output_tokens[0]) if end else 0)
        found[name] = [after - before < span for before, after in pairwise(lengths)]
    return found


@pytest.mark.parametrize("seed", range(200))
def test_spans_become_steps_and_the_rest_stays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trace, span = random_trace(seed), int(rng.integers(2, 5))
    steps, share = int(rng.integers(1, span + 1)), float(rng.choice([0.3, 0.7, 1.0]))
    made = Latent(span, steps, share).rollouts(trace, seed)
    validate(made.table, "made")
    if made is trace:
        return
    assert {"logprobs"}.isdisjoint(made.table.column_names)
    spans, found = latent_spans(trace, span, share, seed), by_name(made)
    own: list[int] = []
    for name, row in by_name(trace).items():
        text: list[int | None] = []  # places in the response, None where a latent step is
        for number, is_latent in enumerate(spans[name]):
            text += [None] * steps if is_latent else range(number * span, (number + 1) * span)
        text += range(len(spans[name]) * span, row["output_tokens"])
        after = found[name]
        assert after["output_tokens"] == len(text)
        if "token_ids" in row:
            own += [one for one, at in zip(after["token_ids"], text, strict=True) if at is None]
            assert [one for one, at in zip(after["token_ids"], text, strict=True) if at is not None] == [
                row["token_ids"][at] for at in text if at is not None
            ]
        if "accept_lengths" in row:
            nexts = [
                text.index(None, place) - place if None in text[place:] else len(text) for place in range(len(text))
            ]
            assert after["accept_lengths"] == [
                0 if at is None else min(row["accept_lengths"][at], ahead)
                for at, ahead in zip(text, nexts, strict=True)
            ]
            assert after["draft_lengths"] == [0 if at is None else row["draft_lengths"][at] for at in text]
    assert len(set(own)) == len(own)
    assert min(own, default=9) > 3, "beyond every recorded id"


def test_spans_are_latent_as_often_as_they_should() -> None:
    trace = trace_of(output_tokens=[8000] * 5)
    made = Latent(8, 1, 0.3).rollouts(trace, 1)
    count = int((trace.output_tokens - made.output_tokens).sum()) // 7
    assert abs(count - 1500) < 4 * np.sqrt(5000 * 0.3 * 0.7)


def test_all_spans_latent_is_arithmetic() -> None:
    trace = trace_of(output_tokens=[1, 7, 8, 9, 100])
    assert Latent(8, 3).rollouts(trace, 0).output_tokens.tolist() == [1, 7, 3, 4, 12 * 3 + 4]
    assert Latent(8, 3, 0.0).rollouts(trace, 0) is trace
    assert Latent(101, 3).rollouts(trace, 0) is trace


@pytest.mark.parametrize(
    "drafter", [Suffix(), Ngram(2, 4), Last(), Suffix(match="scored")], ids=lambda one: type(one).__name__
)
def test_no_drafter_over_tokens_crosses_a_latent_step(drafter: Any) -> None:
    trace = example_trace()
    largest = int(trace.tokens.max())
    made = Latent(6, 2, 0.5).rollouts(trace, 0)
    step = made.steps[-1]
    rows = np.flatnonzero(made.step == step)
    for budget in (1, 4, 16):
        acceptance = accepted(drafter, made, rows, past_rows(made, step, drafter.window), 0)
        acceptance.serve([budget])
        table = acceptance.tables[acceptance.table_of[budget]].astype(np.int64)
        takes = np.minimum(table[:, 0], budget)
        tokens = np.concatenate([made.tokens[made.offsets[row] : made.offsets[row + 1]] for row in rows])
        assert takes.sum() > 0
        for place in np.flatnonzero(takes):
            assert (tokens[place : place + takes[place]] <= largest).all()


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("latent", "needs spans"),
        ("latent:span=8", "needs spans"),
        ("latent:span=0,steps=1", "whole number from 1"),
        ("latent:span=8,steps=0", "whole number from 1"),
        ("latent:span=8,steps=9", "more latent steps than tokens"),
        ("latent:span=8,steps=2,share=1.1", "number from 0 to 1"),
        ("latent:span=8,steps=2,share=nan", "number from 0 to 1"),
        ("latent:span=8,steps=2,from=3", "use span=, steps=, share="),
    ],
)
def test_what_cannot_be_is_refused(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        resolve_transform(spec)


def test_what_a_trace_lacks_is_named() -> None:
    with pytest.raises(InputError, match="turns"):
        Latent(2, 1).rollouts(trace_of(output_tokens=[4], turns=[[{"generated_tokens": 4, "wait_s": 0.0}]]), 0)
    with pytest.raises(InputError, match="leave no room"):
        Latent(2, 1).rollouts(trace_of(output_tokens=[2], token_ids=[[1, 2**31 - 1]]), 0)
