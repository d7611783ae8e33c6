"""Acceptance by the number of known siblings: against one replay a rollout from exactly those siblings, and as it must grow."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulator.drafting.last import Last
from simulator.drafting.ngram import Ngram
from simulator.drafting.references import acceptance_by_references
from simulator.drafting.suffix import Suffix
from tests.cli.conftest import Shell, shell, small  # noqa: F401
from traces.errors import InputError
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    made = synth(
        prompts=4, samples=5, steps=2, median_tokens=60, max_tokens=300, sibling_reuse=0.7, history_reuse=0.0, seed=4
    )
    return from_table(made, "made")


@pytest.mark.parametrize("drafter", [Suffix(), Suffix(match="scored"), Suffix(match="scored", shape="tree")])
def test_they_are_the_siblings_after_a_rollout_in_a_circle(trace: Trace, drafter: Suffix) -> None:
    for found in acceptance_by_references(trace, drafter, 8, [0, 1, 3], steps=[1]):
        n, drafted, accepted, steps = found["references"], 0, 0, 0
        rows = np.flatnonzero(trace.step == 1)
        for row in rows:
            group = [other for other in rows if trace.prompt[other] == trace.prompt[row]]
            group.sort(key=lambda other: trace.sample[other])
            at = group.index(row)
            past = np.array([group[(at + 1 + i) % len(group)] for i in range(n)], np.int64)
            counts = drafter.counted(trace, np.array([row]), past, 8)
            drafted, accepted, steps = (
                drafted + counts.drafted_tokens, accepted + counts.accepted_tokens, steps + counts.sequence_steps,
            )  # fmt: skip
        assert (found["drafted_tokens"], found["accepted_tokens"], found["sequence_steps"]) == (
            drafted,
            accepted,
            steps,
        )
        assert found["rollouts"] == rows.size


def test_more_siblings_help_where_siblings_write_alike(trace: Trace) -> None:
    lengths = [row["mean_acceptance_length"] for row in acceptance_by_references(trace, Suffix(), 8, [0, 1, 2, 4])]
    assert lengths == sorted(lengths)
    assert lengths[-1] > 1.3 * lengths[0]


def test_only_groups_that_are_large_enough_count_and_in_every_row(trace: Trace) -> None:
    keep = np.flatnonzero((trace.prompt != 0) | (trace.sample < 2))
    fewer = from_table(trace.table.take(keep), "fewer")
    rows = acceptance_by_references(fewer, Suffix(), 8, [0, 3], samples=2)
    assert [row["rollouts"] for row in rows] == [2 * 3 * 2] * 2
    with pytest.raises(InputError, match="no group has more than 5 rollouts"):
        acceptance_by_references(trace, Suffix(), 8, [0, 5])


@pytest.mark.parametrize("drafter", [Ngram(2, 3), Suffix(scope="global"), Suffix(scope="request"), Last()])
def test_who_learns_nothing_from_siblings_is_refused(trace: Trace, drafter: Suffix) -> None:
    with pytest.raises(InputError, match="learns nothing from siblings alone"):
        acceptance_by_references(trace, drafter, 8, [0, 1])


def test_the_command_has_a_row_for_each(shell: Callable[..., Shell], small: Path) -> None:  # noqa: F811
    document = json.loads(shell("acceptance", small, "--references", "2,0,1", "--json").out)
    assert [row["references"] for row in document["references"]] == [0, 1, 2]
    assert "references" in shell("acceptance", small, "--references", "0,2").out
    for flags, problem in {
        ("--references", "0,-1"): "not a list of numbers of siblings", ("--references", ""): "not a list of numbers",
        ("--references", "1", "--window", "2"): "leave --window out",
        ("--references", "1", "--no-history"): "leave --no-history out",
    }.items():  # fmt: skip
        refused = shell("acceptance", small, *flags)
        assert refused.code == 2
        assert problem in refused.err
    assert shell("acceptance", small, "--references", "9").code == 3
