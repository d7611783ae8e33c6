"""The published checks pass for what is built in and for a third-party package, and fail for what breaks the contract."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator.budgets.context import Context
from simulator.budgets.resolve import BUILT_IN, resolve_policy
from simulator.cost import list_profiles, load_profile
from simulator.cost.draft_cost import DraftCost
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.drafter import offsets_of
from simulator.drafting.hybrid import Hybrid
from simulator.drafting.last import Last
from simulator.drafting.model import Modelled
from simulator.drafting.ngram import Ngram
from simulator.drafting.nothing import Nothing
from simulator.drafting.recorded import Recorded
from simulator.drafting.suffix import Suffix
from simulator.replay import run
from simulator.scenario import build
from simulator.testing import check_cost_model, check_drafter, check_policy, example_trace
from traces.io import from_table

PLUGIN = Path(__file__).parents[1] / "example_plugin"

EXAMPLES = {
    "fixed": ["fixed:0", "fixed:3"],
    "threshold": ["threshold:4@2"],
    "schedule": ["schedule:1-2=4,3-8=2"],
}
"""How built-in policies that need an argument are named here; the others are named as they are."""


CURVE = AcceptanceCurve((0.8, 0.7, 0.6), spread=0.1)


@dataclass(frozen=True)
class Named:
    """A built-in policy behind its name, as the checks want it: something with `prepare`."""

    spec: str

    def prepare(self, context: Context) -> Any:
        return resolve_policy(self.spec, context)


def built_in_policies() -> Iterator[str]:
    for name in BUILT_IN:
        yield from EXAMPLES.get(name, [name])


@pytest.mark.parametrize("spec", built_in_policies())
def test_built_in_policies_conform(spec: str) -> None:
    check_policy(Named(spec))


@pytest.mark.parametrize(
    "drafter",
    [
        Nothing(),
        Suffix(),
        Suffix(match="scored"),
        Suffix(match="scored", shape="tree"),
        Suffix(scope="global", own=False),
        Suffix(scope="request"),
        Suffix(newest=1, newest_weight=2),
        Suffix(siblings="live"),
        Ngram(2, 4),
        Last(),
        Last(resync=False),
        *(Modelled(kind, CURVE, {"per_pass_s": 1e-3}) for kind in ("eagle", "draft_model", "mtp", "parallel")),
        Hybrid(Suffix(match="scored"), Modelled("eagle", CURVE, {"per_pass_s": 1e-3})),
    ],
    ids=lambda drafter: drafter.describe(),
)
def test_built_in_drafters_conform(drafter: Any) -> None:
    check_drafter(drafter)


def test_recorded_acceptance_conforms() -> None:
    trace = example_trace()
    rng = np.random.default_rng(0)
    lengths = [[min(int(rng.integers(0, 4)), n - p) for p in range(n)] for n in trace.output_tokens.tolist()]
    table = trace.table.append_column("accept_lengths", pa.array(lengths, pa.list_(pa.int32())))
    check_drafter(Recorded(3, None, {"per_pass_s": 1e-3}), from_table(table, "recorded"))


@pytest.mark.parametrize("name", list_profiles())
def test_shipped_profiles_conform(name: str) -> None:
    check_cost_model(load_profile(name))


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the example package where an installer would: the code and its entry points on sys.path."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"rolloutsim_example-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugin")
def test_a_third_party_package_plugs_in_by_its_entry_points() -> None:
    result = run(
        build(
            {"trace": "example", "profile": "toy-gpu", "policies": ["none", "cautious"], "drafter": {"kind": "bigram"}}
        ),
        example_trace(),
    ).runs.to_pylist()
    assert result[1]["drafter"] == "bigram"
    assert result[1]["accepted_tokens"] > 0
    assert result[1]["draft_s"] > 0
    import rolloutsim_example

    check_policy(rolloutsim_example.cautious)
    check_drafter(rolloutsim_example.Bigram())
    check_cost_model(load_profile("toy-gpu"))


class Clock:
    """Breaks the contract: its budgets depend on how often it was asked before, over runs."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, view: Any) -> Any:
        self.asked += 1
        return np.full(view.live, self.asked % 5)


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (Clock(), "same result"),
        (lambda view: [0.5] * view.live, "whole numbers"),
        (lambda view: [300], "one budget each|255"),
    ],
)
def test_policies_that_break_the_contract_are_caught(policy: Any, error: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=error):
        check_policy(policy)


def drafter_with(table: Any, **changes: Any) -> Any:
    """A drafter whose table is a function of (trace, rows, offsets, seed, budget)."""

    class Made:
        lossless = True
        learns_from: frozenset[str] = frozenset({"own"})
        window = 1
        needs_tokens = True
        cost = DraftCost()

        def describe(self) -> str:
            return "made"

        def accept(self, trace: Any, rows: Any, past: Any, seed: int) -> Acceptance:
            offsets = offsets_of(trace, rows)
            return Acceptance(offsets, lambda budget: table(trace, rows, offsets, budget), prefix=True)

    for name, value in changes.items():
        setattr(Made, name, value)
    return Made()


def too_much(trace: Any, rows: Any, offsets: Any, budget: int) -> Any:
    return np.full((int(offsets[-1]), 2), 9, np.uint8)


def prophet(trace: Any, rows: Any, offsets: Any, budget: int) -> Any:
    """Drafts where the token after next is even: it looks ahead."""
    found = np.zeros((int(offsets[-1]), 2), np.uint8)
    for row, start in zip(rows, offsets, strict=False):
        tokens = trace.tokens[trace.offsets[row] : trace.offsets[row + 1]]
        found[start : start + len(tokens) - 1, 1] = tokens[1:] % 2 == 0
    return found


def gossip(trace: Any, rows: Any, offsets: Any, budget: int) -> Any:
    """Drafts only where siblings are there: it depends on the rest of the batch."""
    found = np.zeros((int(offsets[-1]), 2), np.uint8)
    if len(rows) > 1:
        found[offsets[:-1], 1] = 1
    return found


def dice(trace: Any, rows: Any, offsets: Any, budget: int) -> Any:
    found = np.zeros((int(offsets[-1]), 2), np.uint8)
    found[offsets[:-1], 1] = np.random.default_rng().integers(0, 2, len(rows))
    return found


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (too_much, "ends with the rollout"),
        (prophet, "tokens after it"),
        (gossip, "siblings"),
        (dice, "same seed|order"),
    ],
)
def test_drafters_that_break_the_contract_are_caught(table: Any, error: str) -> None:
    with pytest.raises(AssertionError, match=error):
        check_drafter(drafter_with(table))


def test_cost_models_that_break_the_contract_are_caught() -> None:
    good = load_profile("h100-llama-3.1-8b-published")

    class Falling:
        name = "falling"
        packed = good.packed

        def step_time_s(self, work: Any) -> Any:
            return 1.0 / good.step_time_s(work)

        def outside(self, work: Any) -> Any:
            return good.outside(work)

    with pytest.raises(AssertionError, match="cost no less"):
        check_cost_model(Falling())
