"""The published checks pass for what is built in and for a third-party package, and fail for what breaks the contract."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from simulator.scheduling.placement import Event, Place, View
from simulator.scheduling.resolve import resolve_placement
from simulator.testing import (
    check_cost_model,
    check_drafter,
    check_loop,
    check_placement,
    check_policy,
    check_stage,
    check_transform,
    example_cost,
    example_trace,
)
from simulator.training.resolve import resolve_loop, resolve_stage
from simulator.training.stage import Prices
from simulator.transforms.resolve import resolve_transform
from traces.errors import InputError
from traces.io import from_table
from traces.trace import Trace

PLUGIN = Path(__file__).parents[1] / "example_plugin"

EXAMPLES = {
    "fixed": ["fixed:0", "fixed:3"],
    "threshold": ["threshold:4@2"],
    "schedule": ["schedule:1-2=4,3-8=2"],
}
"""How built-in policies that need an argument are named here; the others are named as they are."""


CURVE = AcceptanceCurve((0.8, 0.7, 0.6), spread=0.1)


@dataclass(frozen=True)
class NamedPlacement:
    """A built-in placement behind its name."""

    spec: str

    def prepare(self, context: Context) -> Any:
        return resolve_placement(self.spec, context)


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
        Suffix(siblings="everywhere"),
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


@pytest.mark.parametrize(
    "spec",
    [
        "shared",
        "static",
        "round_robin",
        "least_loaded",
        "longest_first",
        "divided:stay=7",
        "context:stay=7",
        "context:stay=0.2,starved=2",
        "ranked",
        "ranked:order=descending,split=even,migrate=0",
        "ranked:migrate=0.5,kv=pull",
        "skewed",
        "skewed:tail=0.6",
        "skewed:recall=0.5",
    ],
)
def test_built_in_placements_conform(spec: str) -> None:
    check_placement(NamedPlacement(spec))


@pytest.mark.parametrize("spec", ["divided:stay=11,kv=pull", "context:stay=11,kv=pull"])
def test_pulled_kv_conforms(spec: str) -> None:
    check_placement(NamedPlacement(spec))


@pytest.mark.parametrize(
    "spec",
    [
        "sync",
        "one_step_async",
        "own_pace",
        "own_pace:lag=0",
        "partial:rollouts=7",
        "refill",
        "streaming:rollouts=9",
        "streaming:rollouts=30,lag=2",
        "sync:minibatch=2",
        "one_step_async:minibatches=3",
        "partial:share=0.5",
        "partial:share=2,prompts=1.5,log_probs=outputs",
    ],
)
def test_built_in_loops_conform(spec: str) -> None:
    check_loop(resolve_loop(spec))


@pytest.mark.parametrize(
    "spec", ["reward:seconds=2,fail=0.5,tries=4", "reward:s_per_token=1e-5,fail=0.5,hold=yes,backoff_last=yes,when=batch",
             "reward:column=output_tokens", "log_probs:seconds=3", "update:s_per_token=1e-6",
             "sync:seconds=0", "refresh:seconds=2", "drafter:s_per_token=1e-4,every=8",
             "spot:half_life=0.5,tokens_per_s=9", "online:rate=4,pause=2,limit=0.9,half_life=100",
             "online:rate=4,pause=0,limit=0.9/0.8/0.7,half_life=0.5,domain=prompt_id"],
)  # fmt: skip
def test_built_in_stages_conform(spec: str) -> None:
    check_stage(resolve_stage(spec, Prices(example_trace(), example_cost(), None, None, 4, 0)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    [
        "width:samples=2", "width:samples=7,prompts=0.4", "width:times=3,prior=0.5", "compress:cap=40",
        "compress:to=0.5,cap_share=1", "grow:factor=1.5,window=200", "latent:span=8,steps=2",
        "latent:span=4,steps=4,share=0.3", "cosine", "cosine:ngram=3",
    ],
)  # fmt: skip
def test_built_in_transforms_conform(spec: str) -> None:
    check_transform(resolve_transform(spec))


@dataclass(frozen=True)
class Breaks:
    """A transform that breaks its contract in one way."""

    make: Any
    name, lossless, assumes = "breaks", True, "nothing"

    def rollouts(self, trace: Trace, seed: int) -> Trace:
        return self.make(trace)


def test_transforms_that_break_the_contract_are_caught() -> None:
    def counted(trace: Trace) -> Any:
        return trace.table.set_column(4, "output_tokens", pa.array(np.arange(1, len(trace) + 1), pa.int32()))

    for told, make in {
        "RL steps stay": lambda trace: trace.select(trace.step == 0),
        "stay in their order": lambda trace: trace.select(np.arange(len(trace))[::-1]),
        "where it stands": lambda trace: trace.select(np.arange(len(trace))[2:]),
        "same trace": lambda trace: trace.select(np.random.default_rng().random(len(trace)) < 0.9),
    }.items():
        with pytest.raises(AssertionError, match=told):
            check_transform(Breaks(make))
    with pytest.raises(InputError, match="elements but output_tokens"):
        check_transform(Breaks(lambda trace: replace(trace, table=counted(trace))))
    with pytest.raises(AssertionError, match="one line"):
        check_transform(Unclear())


class Unclear:
    """A transform that assumes two lines."""

    name, lossless, assumes = "unclear", True, "one\ntwo"


class Restless:
    """Breaks the contract: stays depend on how often it was asked before, over runs."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, event: Event, view: View) -> Any:
        self.asked += 1
        return [Place(event.rollouts, 0, 1 + self.asked % 3)] if event.kind != "finished" else []


def test_placements_that_break_the_contract_are_caught() -> None:
    with pytest.raises(AssertionError, match="same result"):
        check_placement(Restless())
    with pytest.raises(InputError, match="without a replica"):
        check_placement(lambda event, view: [])
    with pytest.raises(InputError, match="places rollout 0 twice"):
        check_placement(lambda event, view: [Place(0, 0), Place(0, 0)])
    with pytest.raises(InputError, match="replica 9: use 0 to 0"):
        check_placement(lambda event, view: [Place(event.rollouts, 9)])


class Idle:
    """Breaks the contract: it offers nothing, and never has enough."""

    lag, interrupts = 0, False

    def offer(self, view: Any) -> int:
        return 0

    def enough(self, view: Any) -> bool:
        return False


def test_loops_that_break_the_contract_are_caught() -> None:
    with pytest.raises(InputError, match="never ends"):
        check_loop(Idle())


class Dice:
    name, per, basis = "dice", "rollout", "dice"

    def seconds(self, rollouts: Any) -> Any:
        return np.random.default_rng().random(rollouts.rows.size)


class Batched:
    name, per, basis = "batched", "batch", "given"

    def seconds(self, rollouts: Any) -> Any:
        return rollouts.output_tokens * 1.0


class Negative(Batched):
    def seconds(self, rollouts: Any) -> Any:
        return -1.0


def test_stages_that_break_the_contract_are_caught() -> None:
    with pytest.raises(AssertionError, match="same time"):
        check_stage(Dice())
    with pytest.raises(AssertionError, match="in all"):
        check_stage(Batched())
    with pytest.raises(InputError, match="finite seconds"):
        check_stage(Negative())


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
    from rolloutsim_example import loop, placement, stage

    check_placement(placement.halves)
    check_loop(loop.ahead)
    check_stage(stage.length_filter)
    check_policy(rolloutsim_example.cautious)
    check_drafter(rolloutsim_example.Bigram())
    check_cost_model(load_profile("toy-gpu"))


@pytest.mark.usefixtures("plugin")
def test_a_system_is_made_of_third_party_parts_by_name() -> None:
    system = {
        "name": "mine",
        "policy": "cautious",
        "placement": "halves",
        "loop": "ahead",
        "stages": ["filter", "update:seconds=1"],
    }
    document = {
        "trace": "example",
        "profile": "toy-gpu",
        "policies": ["none"],
        "systems": [system],
        "engine": {"replicas": 2},
    }
    result = run(build(document), example_trace())
    plain, mine = result.runs.to_pylist()
    assert mine["output_tokens"] == plain["output_tokens"]
    assert mine["recomputed_tokens"] > 0
    assert mine["train_s"] == pytest.approx(3.0)
    assert json.loads(mine["basis"]) == {"filter": "given: 0.1 ms a token", "update": "given"}


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


def oracle(trace: Any, rows: Any, offsets: Any, budget: int) -> Any:
    """Drafts no further than the rollout goes: it knows the end."""
    lengths = trace.output_tokens[rows]
    left = np.concatenate([np.arange(length, 0, -1) for length in lengths])
    return np.stack([np.zeros_like(left), np.minimum(left, 4)], axis=1).astype(np.uint8)


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
        (oracle, "where the rollout ends"),
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
