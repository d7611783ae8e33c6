"""What a draft model costs where nobody says: the bytes and operations of its passes, and the measured time of the host."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.budgets.resolve import resolve_policy
from simulator.catalogue import list_models, load_device, load_model
from simulator.cost.draft_cost import DraftCost, Forward
from simulator.cost.profiles import load_profile
from simulator.cost.roofline import roofline
from simulator.cost.work import StepWork
from simulator.drafting.cost import load_draft_cost
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.default_price import HOST, Kind
from simulator.drafting.drafter import Target
from simulator.drafting.model import Modelled
from simulator.drafting.pricing import priced
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.replay import run
from simulator.scenario import build
from tests.drafting.lengths import equal_rollouts
from tests.drafting.test_model import workload
from tests.engine.workloads import context_of
from traces.errors import InputError
from traces.io import from_table
from traces.synthesis import synth

CURVE = AcceptanceCurve((0.8, 0.7, 0.9))
H100 = load_device("h100")
BYTES_PER_S, FLOPS = H100["bandwidth_bytes_per_s"], H100["peak_flops_per_s"]
ALONE = StepWork.decode(1, 0)


def target(model: str) -> Target:
    estimate = lambda config: roofline(config, H100)  # noqa: E731
    return Target(estimate(load_model(model)), load_model(model), estimate)


def default(kind: Kind, of: str, **given: Any) -> DraftCost:
    drafter = priced(Modelled(kind, CURVE, None, **given), target(of))
    assert isinstance(drafter, Modelled)
    return drafter.cost


def pass_s(cost: DraftCost, work: StepWork = ALONE) -> float:
    assert cost.forward is not None
    return float(cost.forward.cost.step_time_s(work))


def test_a_head_reads_a_layer_of_the_target_an_output_layer_and_what_joins_its_inputs() -> None:
    """Llama-3.1-8B: h = 4096, 14,336 columns, 1,024 for keys and values each, 128,256 tokens; memory decides at batch 1."""
    layer = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 14_336
    norms, joining = 3 * 4096, 2 * 4096 * 4096
    parameters = layer + norms + joining + 4096 * 128_256
    for kind in ("eagle", "mtp"):
        assert pass_s(default(kind, "llama-3.1-8b")) == pytest.approx(2 * parameters / BYTES_PER_S, rel=5e-3)  # type: ignore[arg-type]


def test_an_eagle_3_head_has_an_output_vocabulary_of_its_own_and_a_second_input() -> None:
    layer = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 14_336
    second_input, joining = 4096 * (4096 + 2 * 1024), 2 * 4096 * 4096
    parameters = layer + second_input + joining + 4096 * 32_000
    assert pass_s(default("eagle3", "llama-3.1-8b")) == pytest.approx(2 * parameters / BYTES_PER_S, rel=5e-3)


def test_layers_may_be_said_and_a_block_drafter_drafts_in_one_pass() -> None:
    one, five = (pass_s(default("parallel", "qwen3-8b", layers=layers)) for layers in (1, 5))
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 12_288
    assert five - one == pytest.approx(4 * 2 * layer / BYTES_PER_S, rel=1e-3)
    forward = default("parallel", "qwen3-8b").forward
    assert forward is not None
    assert (forward.passes, forward.at_once) == (1, True)
    assert pass_s(default("parallel", "qwen3-8b")) == five


def test_a_draft_model_costs_what_it_would_cost_as_a_target() -> None:
    small = load_model("qwen3-0.6b")
    drafting = default("draft_model", "qwen3-8b", model=small)
    work = StepWork.decode(64, 2048)
    assert pass_s(drafting, work) == float(roofline(small, H100).step_time_s(work))


def test_multi_token_heads_of_a_model_of_experts_have_experts() -> None:
    config = load_model("qwen3-30b-a3b")
    cost = default("mtp", "qwen3-30b-a3b")
    assert pass_s(cost) == float(roofline({**config, "num_hidden_layers": 1}, H100).step_time_s(ALONE))
    touched = pass_s(cost, StepWork.decode(64, 0)) - pass_s(cost)
    assert touched > 100 * 3 * 2048 * 768 * 2 / BYTES_PER_S, "64 tokens touch nearly all of 128 experts"


def test_the_host_is_charged_as_measured() -> None:
    rates = default("eagle", "llama-3.1-8b").rates
    assert rates == load_draft_cost(HOST).rates
    assert rates["per_step_s"] > 0


def test_a_profile_s_own_entry_comes_first() -> None:
    profile = load_profile("h100-llama-3.1-8b-published")
    drafter = priced(Modelled("eagle", CURVE, None), Target(profile))
    assert drafter.cost == priced(Modelled("eagle", CURVE, "eagle"), Target(profile)).cost


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "eagle3",
            "no entry 'eagle3' in drafter_costs, and for a default price the model and the device must be named",
        ),
        ("draft_model", "drafter draft_model: model is missing: name the draft model"),
    ],
)
def test_what_nobody_can_price_is_refused(kind: Kind, message: str) -> None:
    with pytest.raises(InputError, match=message):
        priced(Modelled(kind, CURVE, None), Target(load_profile("h100-llama-3.1-8b-published")))


@pytest.mark.parametrize(("kind", "of"), [("eagle", "llama-3.1-8b"), ("mtp", "qwen3-30b-a3b")])
def test_the_engine_charges_the_first_pass_for_the_step_and_the_others_for_a_token_of_each(kind: Kind, of: str) -> None:
    cost, drafting = target(of).profile, default(kind, of)
    load = workload(Modelled("eagle", CURVE), equal_rollouts(4, 50))
    outcome = simulate(load, resolve_policy("fixed:3", context_of(cost, 4)), Deployment(cost, 4, draft_cost=drafting))
    log = outcome.logs[0][:]
    whole = log[(log["drafted_tokens"] == 12) & (log["live"] == 4)]
    assert whole.size > 5
    kv = whole["kv_tokens"]
    assert drafting.forward is not None
    first = drafting.forward.cost.step_time_s(StepWork(4, whole["query_tokens"], kv, whole["pairs"]))
    other = drafting.forward.cost.step_time_s(StepWork(4, 4, kv, kv))
    host = drafting.per_step_s + 4 * drafting.per_query_s + 3 * drafting.per_pass_s
    np.testing.assert_allclose(whole["draft_s"], host + first + 2 * other, rtol=1e-12)


def test_a_replay_says_what_the_default_is() -> None:
    trace = from_table(synth(prompts=4, samples=2, steps=1, median_tokens=60, max_tokens=100, seed=5), "made")
    document = {
        "trace": "made", "model": "llama-3.1-8b", "device": "h100", "policies": ["none", "fixed:3"],
        "drafter": {"kind": "eagle3", "curve": [0.8, 0.7, 0.6]},
    }  # fmt: skip
    told = run(build(document), trace)
    assert "passes of a head" in told.runs["drafter"][1].as_py()
    assert any(
        "drafter eagle3 is priced by default" in warning and HOST in warning for warning in told.about["warnings"]
    )
    document["drafter"]["cost"] = {}  # type: ignore[index]
    assert not any("default" in warning for warning in run(build(document), trace).about["warnings"])


def test_passes_at_their_least_bound_what_drafting_costs() -> None:
    forward = Forward(roofline(load_model("qwen3-0.6b"), H100))
    least_s = sum(forward.cost.least_s.values())
    assert DraftCost(per_pass_s=1e-3, forward=forward).at_least == DraftCost(per_pass_s=1e-3 + least_s)
    assert DraftCost(per_step_s=1.0, forward=Forward(forward.cost, 2)).at_least == DraftCost(
        per_step_s=1.0 + 2 * least_s
    )


@pytest.mark.parametrize("of", list_models())
def test_every_model_of_the_catalogue_has_heads(of: str) -> None:
    """Their passes cost something, and less than a step of the target."""
    step_s = float(target(of).profile.step_time_s(ALONE))
    for kind in ("eagle", "eagle3", "mtp", "parallel"):
        assert 0 < pass_s(default(kind, of)) < step_s  # type: ignore[arg-type]


FILE = """
format: rolloutsim.draft_cost/1
drafter: a head
device: some GPU
source: measured
cost: {per_step_s: 1.0e-3}
forward:
  operators: [{name: head, kind: affine, coefficients_s: {constant: 5.0e-4, query_tokens: 1.0e-6}}]
"""


def test_a_measured_cost_may_have_passes_by_operators(tmp_path: Path) -> None:
    path = tmp_path / "head.yaml"
    path.write_text(FILE)
    drafter = priced(Modelled("eagle", CURVE, str(path)), Target(load_profile("h100-llama-3.1-8b-published")))
    assert drafter.cost.per_step_s == 1e-3
    assert pass_s(drafter.cost, StepWork.decode(8, 100, 4)) == pytest.approx(5e-4 + 32e-6)
    assert "passes of a head" in drafter.describe()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cost: {per_step_s: 1.0e-3}\nforward:", "forwards:", "cost is missing or empty"),
        ("operators: [", "operator: [", "give operators, and passes or at_once"),
        ("constant", "constants", r"forward.operators\[0\].*constants is not a key"),
        ("forward:\n", "forward:\n  passes: -1\n", "forward.passes = -1: give a whole number from 0 to 255"),
        ("forward:\n", "forward:\n  at_once: 1\n", "forward.at_once = 1: give true or false"),
    ],
)
def test_passes_written_wrongly_are_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "head.yaml"
    path.write_text(FILE.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_draft_cost(str(path))
