"""Model drafters that draft trees: measured means are met exactly, a path is accepted, files and settings say what is wrong."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.budgets.resolve import resolve_policy
from simulator.cost.draft_cost import DraftCost
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.drafter import strategies_of
from simulator.drafting.measure import DraftProfile
from simulator.drafting.model import Modelled
from simulator.drafting.strategy import Strategy, geometric, ordered, passes_by_tokens
from simulator.drafting.strategy_files import read_strategies
from simulator.drafting.trees import ModelTrees
from simulator.engine.cluster import Outcome, simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.scenario import build
from simulator.testing import check_drafter
from tests.drafting.lengths import accepted_by, equal_rollouts
from tests.engine.workloads import assert_equal, context_of
from tests.theory.queues import affine
from traces.errors import InputError

COST = affine(constant=1.0, query_tokens=1 / 64)


def shape(depth: int, topk: int, verify: int, accept_length: float, spread: float = 0.0) -> Strategy:
    curve = geometric(depth, topk, verify, accept_length)
    return Strategy(depth, topk, verify, AcceptanceCurve(curve.conditional, spread))


SHAPES = (shape(4, 8, 16, 3.6), shape(8, 8, 32, 5.5), shape(8, 8, 48, 6.1))


def outcome_of(drafter: ModelTrees | Modelled, policy: str, rollouts: int = 6, tokens: int = 400) -> Outcome:
    trace = equal_rollouts(rollouts, tokens)
    load = Workload(
        trace.prompt.astype(np.int64), trace.sample.astype(np.int64), trace.prompt_tokens.astype(np.int64),
        trace.output_tokens.astype(np.int64), accepted_by(drafter, trace),
    )  # fmt: skip
    shapes = strategies_of(drafter)
    deployment = Deployment(COST, 3, draft_cost=drafter.cost, strategies=shapes)
    return simulate(load, resolve_policy(policy, context_of(COST, 3)), deployment)


# Acceptance -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 8, 16, 200])
@pytest.mark.parametrize("share", [0.0, 1e-6, 0.3, 0.9, 1.0])
def test_the_geometric_path_has_the_measured_mean(depth: int, share: float) -> None:
    curve = geometric(depth, 4, 255, 1 + share * depth)
    assert curve.positions == depth
    assert len(set(curve.conditional)) == 1
    assert 1 + curve.mean_accepted(depth) == pytest.approx(1 + share * depth, abs=1e-10)


@pytest.mark.parametrize(
    ("shape_", "accept_length", "possible"),
    [((8, 8, 48), 9.01, "1 to 9"), ((8, 8, 48), 0.99, "1 to 9"), ((8, 8, 4), 5.5, "1 to 5")],
)
def test_means_that_no_tree_has_are_refused(shape_: tuple[int, int, int], accept_length: float, possible: str) -> None:
    with pytest.raises(InputError, match=f"accept_length = {accept_length:g}: .* have {possible}; correct it"):
        geometric(*shape_, accept_length)


@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_tables_have_the_measured_mean_and_the_tokens_to_verify(spread: float) -> None:
    shapes = tuple(shape(one.depth, 8, one.verify, 1 + one.curve.mean_accepted(one.depth), spread) for one in SHAPES)
    trace = equal_rollouts(4000, 60)
    acceptance = accepted_by(ModelTrees("eagle", shapes), trace)
    early = np.arange(60) < 40  # far from the end, which cuts paths
    before = None
    for one in shapes:
        acceptance.serve([one.verify])
        table = acceptance.tables[acceptance.table_of[one.verify]].reshape(4000, 60, 2).astype(np.int64)
        assert (table[..., 1] == one.verify).all()
        each = table[:, early, 0].mean(axis=1)
        error = each.std(ddof=1) / np.sqrt(each.size)  # of the mean over rollouts, which are independent
        mean = one.curve.mean_accepted(one.depth)
        assert abs(each.mean() - mean) < 4 * error, "four standard errors"
        assert table[:, early, 0].max() == one.depth
        if before is not None:
            assert (table[..., 0] >= before).all(), "the same draw decides at a position"
        before = table[..., 0]


def test_a_budget_gets_the_largest_strategy_that_it_permits_and_one_table() -> None:
    acceptance = accepted_by(ModelTrees("eagle", SHAPES[::-1]), equal_rollouts(3, 50))
    acceptance.serve([0, 16, 17, 31, 32, 48, 255])
    assert len(acceptance.tables) == 4
    which = acceptance.table_of[[0, 16, 17, 31, 32, 48, 255]].tolist()
    assert which == [0, 1, 1, 1, 2, 3, 3]
    assert not acceptance.tables[0].any()
    with pytest.raises(
        InputError, match=r"budget 15: no tree is so small: .* the strategies verify 16, 32, 48: use these"
    ):
        acceptance.serve([15])


def test_a_chain_is_a_tree_of_one_path() -> None:
    curve = AcceptanceCurve((0.8, 0.7, 0.9, 0.6), spread=0.1)
    price = {"per_pass_s": 0.25, "per_drafted_token_s": 1 / 128, "per_step_s": 0.125}
    chain = outcome_of(Modelled("eagle", curve, price), "fixed:4")
    tree = outcome_of(ModelTrees("eagle", (Strategy(4, 1, 4, curve),), price), "fixed:4")
    assert_equal(tree, chain)
    wide = outcome_of(ModelTrees("eagle", (Strategy(4, 4, 20, curve),), price), "fixed:20")
    assert wide.rollouts["accepted"].tolist() == chain.rollouts["accepted"].tolist(), "the same path"
    steps, more = wide.rollouts["steps"].sum() - 6, 16  # drafting steps; tokens verified beyond the chain's
    assert wide.rollouts["drafted"].sum() == 20 * steps
    dearer = sum(float(log["duration_s"].sum()) for log in wide.logs) - sum(
        float(log["duration_s"].sum()) for log in chain.logs
    )
    assert dearer == pytest.approx(steps * more * (1 / 64 + 1 / 128), rel=1e-9), "of the same passes"


def test_parallel_trees_take_one_pass() -> None:
    price = {"per_pass_s": 0.5}
    serial, parallel = (outcome_of(ModelTrees(kind, SHAPES, price), "fixed:16", 1) for kind in ("mtp", "parallel"))  # type: ignore[arg-type]
    drafting = serial.rollouts["steps"].sum() - 1
    assert serial.makespan_s - parallel.makespan_s == pytest.approx(drafting * 0.5 * (4 - 1), rel=1e-9)


def test_positions_of_a_tree_are_those_of_its_path() -> None:
    profile = DraftProfile(passes_by_tokens(SHAPES))
    profile.add(accepted_by(ModelTrees("eagle", SHAPES), equal_rollouts(50, 200)))
    positions = [row for row in profile.blocks() if row["by"] == "position"]
    assert [row["low"] for row in positions] == list(range(1, 9)), "48 tokens verified, 8 deep"
    rates = [row["accepted_tokens"] / row["drafted_tokens"] for row in positions]
    assert all(a > b for a, b in itertools.pairwise(rates))


def test_passes_by_tokens() -> None:
    assert passes_by_tokens(()).tolist() == list(range(256))
    assert passes_by_tokens(SHAPES)[[0, 16, 32, 48]].tolist() == [0, 4, 8, 8]


def test_trees_conform() -> None:
    shapes = tuple(shape(min(verify, 3), 2, verify, 1.5) for verify in (1, 3, 8))
    check_drafter(ModelTrees("eagle", shapes, {"per_pass_s": 1e-3}))


def test_strategies_that_a_budget_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(InputError, match="8-8-16 and 4-8-16 verify equally many tokens"):
        ordered([shape(8, 8, 16, 4.0), shape(4, 8, 16, 3.0)])
    with pytest.raises(InputError, match="strategy 4-8-32 verifies more tokens than 8-8-16 and is less deep"):
        ordered([shape(8, 8, 16, 4.0), shape(4, 8, 32, 3.0)])
    with pytest.raises(InputError, match="none is given"):
        ordered([])
    with pytest.raises(InputError, match="strategy 4-2-300: verify = 300: give 1 to 255"):
        Strategy(4, 2, 300, AcceptanceCurve((0.5,) * 4))
    with pytest.raises(InputError, match="its curve has 3 positions, a path 4 tokens"):
        Strategy(4, 2, 8, AcceptanceCurve((0.5,) * 3))


# Files and settings ---------------------------------------------------------------------------------------------------

CSV = "depth,topk,verify,accept_length\n8,8,16,6.34\n8,8,32,7.01\n10,8,48,7.97\n"
YAML = """format: rolloutsim.strategies/1
name: n
source: s
strategies:
- {depth: 2, topk: 4, verify: 6, conditional: [0.8, 0.5]}
- {depth: 3, topk: 4, verify: 12, accept_length: 3.1}
"""


def written(folder: Path, text: str, name: str = "table.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_tables_are_read(tmp_path: Path) -> None:
    found = read_strategies(written(tmp_path, CSV))
    assert [one.name for one in found] == ["8-8-16", "8-8-32", "10-8-48"]
    assert [1 + one.curve.mean_accepted(one.depth) for one in found] == pytest.approx([6.34, 7.01, 7.97])
    assert [one.name for one in read_strategies(tmp_path / "table.csv", ["10-8-48", "8-8-16"])] == ["10-8-48", "8-8-16"]
    first, second = read_strategies(written(tmp_path, YAML, "t.yaml"))
    assert first.curve.conditional == (0.8, 0.5)
    assert 1 + second.curve.mean_accepted(3) == pytest.approx(3.1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("depth,topk\n1,2\n", "line 1: 'depth,topk': the header is depth,topk,verify,accept_length"),
        (CSV + "8,8,64\n", "line 5: 3 values for 4 columns"),
        (CSV + "8,8,64,ten\n", "line 5: accept_length = 'ten' is not a finite number"),
        (
            CSV + "8,8,64,10\n",
            "strategy 8-8-64: accept_length = 10: a path of at most 8 tokens and the bonus have 1 to 9",
        ),
        (CSV + "8.5,8,64,3\n", "line 5: depth = '8.5': give a whole number"),
        (CSV.splitlines()[0] + "\n", "has no strategies: write one a line"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as error:
        read_strategies(path)
    assert str(error.value).startswith(f"{path}: ")
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("source: s\n", ""), "source = None is not text"),
        (("strategies/1", "strategies/2"), "this version reads 'format: rolloutsim.strategies/1'"),
        (
            ("topk: 4, verify: 6", "width: 4, verify: 6"),
            "strategies[0]: 'width' is not known: give depth, topk, verify",
        ),
        (("topk: 4, verify: 6", "verify: 6"), "strategies[0]: topk is missing"),
        (
            ("accept_length: 3.1", "accept_length: 3.1, conditional: [1]"),
            "strategies[1]: give one of accept_length and",
        ),
        (("[0.8, 0.5]", "0.8"), "strategies[0]: conditional = 0.8: give a list"),
        (("[0.8, 0.5]", "[0.8]"), "strategy 2-4-6: its curve has 1 positions, a path 2 tokens"),
        (("name: n", "names: n"), "'names' is not a key"),
    ],
)
def test_broken_documents_are_refused(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    assert change[0] in YAML
    with pytest.raises(InputError) as error:
        read_strategies(written(tmp_path, YAML.replace(*change), "t.yaml"))
    assert problem in str(error.value)


def drafter_of(**settings: Any) -> Any:
    return build({"trace": "t", "profile": "p", "policies": ["none"], "drafter": settings}).drafter.drafter()


def test_settings(tmp_path: Path) -> None:
    path = str(written(tmp_path, CSV))
    found = drafter_of(kind="eagle", strategies=path, use="8-8-16/10-8-48", cost={"per_pass_s": 1e-3}, spread=0.2)
    assert [one.name for one in found.strategies] == ["8-8-16", "10-8-48"]
    assert {one.curve.spread for one in found.strategies} == {0.2}
    assert found.cost == DraftCost(per_pass_s=1e-3)
    assert found.lookahead_tokens == 8 * 8 - 16, "8 tokens in each of 8 passes, in place of which 16 are verified"
    assert "8-8-16" in found.describe()
    rows = [{"depth": 2, "topk": 4, "verify": 6, "conditional": [0.8, 0.5]}]
    assert drafter_of(kind="mtp", strategies=rows, cost={}).strategies[0].curve.conditional == (0.8, 0.5)
    with pytest.raises(InputError, match="curve: given beside strategies: leave one out"):
        drafter_of(kind="eagle", strategies=path, curve=[0.8], cost={})
    with pytest.raises(InputError, match="draft_tokens does not go with strategies: leave it out"):
        drafter_of(kind="eagle", strategies=path, draft_tokens=3, cost={})
    with pytest.raises(InputError, match="use does not go with curve: leave it out"):
        drafter_of(kind="eagle", curve=[0.8], use=["8-8-16"], cost={})
    with pytest.raises(InputError, match="has no strategy '8-4-16': choose from 8-8-16, 8-8-32, 10-8-48"):
        drafter_of(kind="eagle", strategies=path, use=["8-4-16"], cost={})
    with pytest.raises(InputError, match=r"strategies\[0\]: depth is missing"):
        drafter_of(kind="eagle", strategies=[{"topk": 4, "verify": 6, "accept_length": 2}], cost={})
    with pytest.raises(InputError, match=r"model\.strategies are trees"):
        drafter_of(kind="hybrid", model={"kind": "eagle", "strategies": rows, "cost": {}})
