"""A diffusion model as drafter: one pass, over the context too, drafts that end early, and lossless at temperature 0 alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulator.catalogue import load_device, load_model
from simulator.cost.model_config import model_shape
from simulator.cost.roofline import ATTENTION_KERNELS, DENSE_KERNELS, KERNEL_S, roofline
from simulator.drafting.cost import load_draft_cost
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.default_price import HOST
from simulator.drafting.diffusion import Diffusion
from simulator.drafting.drafter import Target
from simulator.drafting.model import Modelled
from simulator.drafting.pricing import priced
from simulator.replay import run
from simulator.scenario import build, drafter_settings
from simulator.testing import SEED, check_drafter, example_trace
from traces.errors import InputError
from traces.io import from_table
from traces.synthesis import synth

CURVE = AcceptanceCurve((0.9,) * 30)
A100, DREAM = load_device("a100-80gb"), load_model("dream-7b")
BYTES_PER_S, FLOPS = A100["bandwidth_bytes_per_s"], A100["peak_flops_per_s"]


def diffusion(price: Any = None, **given: Any) -> Diffusion:
    return Diffusion(Modelled("diffusion", CURVE, {} if price is None else price), **given)


def at_a100(context: str) -> Diffusion:
    drafter = Diffusion(Modelled("diffusion", CURVE, None, model=DREAM), context)  # type: ignore[arg-type]
    config = load_model("deepseek-r1-distill-qwen-32b")
    found = priced(drafter, Target(roofline(config, A100), config, lambda one: roofline(one, A100)))
    assert isinstance(found, Diffusion)
    return found


def steps_of(context: str, drafts: int, prompt_tokens: int) -> list[dict[str, Any]]:
    """Decode steps, with drafts of so many tokens that are all rejected, of two rollouts one after the other."""
    drafter = {"kind": "diffusion", "model": "dream-7b", "context": context, "curve": [0.0] * 30}
    scenario = {
        "trace": "t",
        "model": "deepseek-r1-distill-qwen-32b",
        "device": "a100-80gb",
        "policies": [f"fixed:{drafts}"],
    }
    trace = from_table(
        synth(prompts=2, samples=1, steps=1, median_tokens=40, max_tokens=99, prompt_tokens=prompt_tokens), "t"
    )
    steps = run(build({**scenario, "drafter": drafter, "engine": {"max_num_seqs": 1}}), trace).steps.to_pylist()
    return [step for step in steps if step["drafted_tokens"]]


@pytest.mark.parametrize("prompt_tokens", [100, 3000])
@pytest.mark.parametrize("drafts", [1, 10, 30])
@pytest.mark.parametrize("context", ["cached", "recomputed"])
def test_a_pass_by_hand(context: str, drafts: int, prompt_tokens: int) -> None:
    """Cached, it reads weights and KV; else it multiplies all of the context, too, with the weights and with each other."""
    shape = model_shape(DREAM)
    read, besides = shape.parameters - shape.embedding_parameters, []
    for step in steps_of(context, drafts, prompt_tokens):
        held, ran = step["kv_tokens"], drafts + 1
        if context == "recomputed":
            held = ran = held + ran
        memory = (2 * read + shape.kv_bytes_per_token * held) / BYTES_PER_S
        compute = (2 * read * ran + 4 * 28 * 28 * 128 * held * ran) / FLOPS
        besides.append(step["draft_s"] - max(memory, compute))
    host = load_draft_cost(HOST)
    kernels_s = 28 * (ATTENTION_KERNELS + DENSE_KERNELS) * KERNEL_S
    assert np.array(besides) == pytest.approx(
        kernels_s + host.per_step_s + host.per_query_s + host.per_pass_s, rel=1e-9
    )


def test_a_longer_draft_costs_hardly_more() -> None:
    few, many = (steps_of("cached", drafts, 100)[0]["draft_s"] for drafts in (1, 30))
    assert many / few == pytest.approx(1, abs=0.01)


def test_drafts_end_as_often_as_told() -> None:
    trace = example_trace()
    rows = np.flatnonzero(trace.step == 0)
    plain = diffusion().accept(trace, rows, rows[:0], SEED).tables[0]
    table = diffusion(ends=0.2).accept(trace, rows, rows[:0], SEED).tables[0]
    reached = np.array([(table[:, 1] >= j).mean() for j in range(6)])
    # a share of n positions has a standard deviation of sqrt(p q / n)
    sigma = np.sqrt(0.8 ** np.arange(6) * (1 - 0.8 ** np.arange(6)) / len(table))
    assert (np.abs(reached - 0.8 ** np.arange(6)) <= 4 * sigma + 1e-12).all()
    assert (table[:, 0] == np.minimum(plain[:, 0], table[:, 1])).all(), "acceptance is drawn alike"
    assert (diffusion(ends=0.9).accept(trace, rows, rows[:0], SEED).tables[0][:, 1] <= table[:, 1]).all()
    modelled = Modelled("diffusion", CURVE, {}).accept(trace, rows, rows[:0], SEED).tables[0]
    assert (plain == modelled).all(), "without ends it is any draft model"


@pytest.mark.parametrize("ends", [0.0, 0.3])
def test_it_conforms(ends: float) -> None:
    check_drafter(diffusion(ends=ends))


@pytest.mark.parametrize(("temperature", "lossless"), [(None, False), (0, True), (0.7, False)])
def test_it_is_lossless_at_temperature_0_only_and_a_result_says_so(temperature: float | None, lossless: bool) -> None:
    drafter = {"kind": "diffusion", "curve": [0.5], "cost": {}, "temperature": temperature}
    scenario = {"trace": "t", "profile": "h100-llama-3.1-8b-published", "policies": ["fixed:1"], "drafter": drafter}
    result = run(build(scenario), example_trace())
    assert result.runs.to_pylist()[0]["lossless"] is lossless
    told = [line for line in result.about["warnings"] if "lossless at temperature 0 only" in line]
    assert len(told) == (not lossless)
    if temperature:
        assert "sampled at 0.7" in told[0]
    same = replace(Diffusion(Modelled("diffusion", AcceptanceCurve((0.5,)), {})), temperature=temperature)
    assert same.lossless is lossless


def test_a_budget_buys_its_tokens_and_no_kv_slots_of_its_own() -> None:
    assert diffusion().lookahead_tokens == 0
    assert "context recomputed" in diffusion().describe()
    assert "ends=0.1" in diffusion(ends=0.1).describe()
    assert at_a100("recomputed").cost.forward != at_a100("cached").cost.forward


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curve": None}, "curve: missing"),
        ({"curve": None, "strategies": [{}]}, "strategies are trees, and a diffusion model drafts one path"),
        ({"layers": 2}, "layers is how many a head has"),
        ({"context": "half"}, "context"),
        ({"temperature": -1}, "temperature"),
        ({"ends": 1}, "ends"),
        ({"ends": float("nan")}, "ends"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        drafter_settings({"kind": "diffusion", "curve": [0.5], **changes}).drafter()


def test_a_default_price_needs_the_model() -> None:
    drafter = drafter_settings({"kind": "diffusion", "curve": [0.5]}).drafter()
    config = load_model("llama-3.1-8b")
    with pytest.raises(InputError, match="drafter diffusion: model is missing: name the draft model"):
        priced(drafter, Target(roofline(config, A100), config, lambda one: roofline(one, A100)))
