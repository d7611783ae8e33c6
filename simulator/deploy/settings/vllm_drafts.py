"""What vLLM is told to draft: its `speculative_config`, and what of the choice it really runs.

Read in vLLM's releases 0.10 to 0.33; numbers are pull requests of vllm-project/vllm.
"""

from dataclasses import replace
from typing import Any, Literal

from simulator.deploy.settings.budget import Budgets, budgets_of, constant
from simulator.deploy.settings.choice import Choice
from simulator.deploy.settings.engine import Engine
from simulator.deploy.settings.parts import Arguments, Check, instead, without_drafts
from simulator.deploy.vllm_proposer import KEY, LiveSuffixSettings, ProposerSettings
from simulator.drafting.model import Modelled
from simulator.drafting.settings import (
    HybridSettings,
    LastSettings,
    ModelSettings,
    NgramSettings,
    NothingSettings,
    SuffixSettings,
)

CONFIG = "vllm/config/speculative.py"
VLLM_CONFIG = "vllm/config/vllm.py"
RUNNER = "vllm/v1/worker/gpu_model_runner.py"
SCHEDULER = "vllm/v1/core/sched/scheduler.py"
SUFFIX = "vllm/v1/spec_decode/suffix_decoding.py"
PROPOSER = "simulator.deploy.vllm_proposer.SuffixProposer"
BESIDE = ("--no-deps", "rolloutsim", "pyarrow", "scipy")
"""What pip is told for the proposer: vLLM brings all else, in releases of its own."""

Method = Literal["ngram", "suffix", "eagle", "eagle3", "mtp", "draft_model", "dflash", "custom_class"]
SINCE: dict[Method, str] = {
    "ngram": "0.10", "eagle": "0.10", "eagle3": "0.10", "mtp": "0.11", "suffix": "0.12", "draft_model": "0.15", "dflash": "0.20",
    "custom_class": "0.22",
}  # fmt: skip
"""The first release whose V1 engine runs a method; the last is #39487."""
METHOD: dict[str, Method] = {
    "eagle": "eagle", "eagle3": "eagle3", "mtp": "mtp", "draft_model": "draft_model", "parallel": "dflash",
}  # fmt: skip
"""Drafters that are models, by vLLM's names."""
SCHEDULE_SINCE, FALLS_BACK_SINCE = "0.24", "0.26"
"""K by batch size; ranks that share experts are known to need the same K, and get it."""
CACHED_REQUESTS = 10_000
"""Responses that suffix decoding keeps unless told otherwise; 0 keeps none."""


def vllm_drafts(choice: Choice, engine: Engine) -> Arguments:
    """Return `speculative_config` and what goes with it, for the choice or for the nearest that this release runs."""
    budgets = budgets_of(choice.policy, choice.engine.max_num_seqs)
    drafter = choice.drafter
    if isinstance(drafter, NothingSettings) or (budgets is not None and budgets.most == 0):
        return without_drafts(choice)
    if isinstance(drafter, SuffixSettings):
        own = _native_suffix(drafter)
        if own is not None and budgets is not None and not budgets.varies:
            return _suffix(choice, own, budgets, engine)
        made = _proposer(choice, drafter, budgets, engine)
        if own is None or budgets is None:
            return made
        text = "vLLM's suffix decoding takes no K by batch size, and stops where a step has another: the proposer drafts alike"
        return replace(made, checks=(*made.checks, Check("ok", text, f"{SUFFIX}, propose")))
    if isinstance(drafter, LastSettings):
        suffix = SuffixSettings(window=drafter.window, siblings="live")
        text = "no engine drafts from the last rollout of the same slot: the settings are those of suffix drafts from all of the "
        text += f"same prompt, {drafter.window} RL steps back"
        return instead(_proposer(choice, suffix, budgets, engine), text, PROPOSER)
    if isinstance(drafter, HybridSettings):
        kind = drafter.model.kind
        nearest = vllm_drafts(choice.model_copy(update={"drafter": drafter.model}), engine)
        text = f"vLLM drafts by one method alone, not by suffix and {kind} in turns: the settings are those of {kind}"
        return instead(nearest, text, CONFIG)
    if isinstance(drafter, NgramSettings):
        lookup = {"prompt_lookup_min": drafter.prompt_lookup_min, "prompt_lookup_max": drafter.prompt_lookup_max}
        return _by_batch(choice, "ngram", lookup, budgets, engine, usual=4)
    if isinstance(drafter, ModelSettings):
        return _model(choice, drafter, budgets, engine)
    text = f"vLLM has no drafter like {drafter.kind}: the settings are those without drafts"
    return without_drafts(choice, Check("refused", text, CONFIG))


def _native_suffix(drafter: SuffixSettings) -> SuffixSettings | None:
    """The drafter as vLLM's own suffix decoding has it, None where that drafts otherwise.

    It keeps responses for as long as the engine lives, those of siblings that still run among them, or none.
    """
    siblings = "next-step" if drafter.scope == "request" else "live"
    like = (drafter.match, drafter.shape, drafter.own, drafter.prompt, drafter.newest, drafter.siblings)
    return drafter if drafter.scope != "problem" and like == ("scored", "path", True, True, 0, siblings) else None


def _suffix(choice: Choice, drafter: SuffixSettings, budgets: Budgets, engine: Engine) -> Arguments:
    if lacking := _lacks("suffix", choice, engine):
        return lacking
    most = budgets.cut(drafter.depth).most
    kept = 0 if drafter.scope == "request" else CACHED_REQUESTS
    config = {
        "method": "suffix", "num_speculative_tokens": most, "suffix_decoding_max_tree_depth": drafter.depth,
        "suffix_decoding_max_cached_requests": kept, "suffix_decoding_max_spec_factor": drafter.factor,
        "suffix_decoding_min_token_prob": drafter.min_prob,
    }  # fmt: skip
    text = "suffix decoding needs the package arctic-inference, without which vLLM does not start"
    checks = [Check("warning", text, CONFIG)]
    if kept:
        text = f"it drafts from the last {kept:,} responses of any prompt and RL step: window = {drafter.window} is no setting"
        checks.append(Check("warning", text, SUFFIX))
    runs = choice.model_copy(update={"policy": f"fixed:{most}", "drafter": drafter})
    return Arguments({"speculative_config": config}, runs, tuple(checks), ("arctic-inference",))


def _proposer(choice: Choice, drafter: SuffixSettings, budgets: Budgets | None, engine: Engine) -> Arguments:
    """The drafter and any policy by the proposer, which runs inside vLLM."""
    live = LiveSuffixSettings(**drafter.model_dump(exclude={"siblings", "shape"}))
    most = live.depth if budgets is None else budgets.cut(live.depth).most
    if not engine.since(SINCE["custom_class"]):
        if lacking := _lacks("suffix", choice, engine):
            return lacking
        nearest = SuffixSettings(
            scope="global", match="scored", siblings="live", depth=live.depth, factor=live.factor, min_prob=live.min_prob
        )  # fmt: skip
        text = (
            f"{choice.policy} with these suffix drafts needs a proposer of one's own, which vLLM takes from "
            f"{SINCE['custom_class']} on: the settings are those of suffix decoding with {most} drafts"
        )
        return instead(_suffix(choice, nearest, constant(most, choice.engine.max_num_seqs), engine), text, CONFIG)
    checks = []
    if drafter.shape != live.shape:
        text = "vLLM is told to verify one path of drafts, no tree: the settings are those of shape=path"
        checks.append(Check("refused", text, RUNNER))
    if drafter.siblings != live.siblings:
        text = f"the proposer drafts from siblings that run on the same engine, too, not as siblings={drafter.siblings} says"
        checks.append(Check("warning", text, PROPOSER))
    if choice.history is None:
        text = "no history is named: every prompt starts cold, and policies know no lengths"
        checks.append(Check("warning", text, PROPOSER))
    settings = ProposerSettings(
        history=choice.history, drafter=live, policy=choice.policy, profile=choice.profile, max_tokens=choice.max_tokens
    )
    checks += [
        Check("ok", f"{choice.policy} decides inside vLLM, by the code that was simulated", PROPOSER),
        Check("warning", f"a sequence drafts {most} tokens at most, whatever the policy says", PROPOSER),
        Check("warning", "replicas do not see each other's rollouts: send the rollouts of a prompt to one of them", PROPOSER),
    ]  # fmt: skip
    ours = settings.model_dump(mode="json", exclude_defaults=True, exclude={"drafter": {"cost"}})
    config = {
        "speculative_config": {"method": "custom_class", "num_speculative_tokens": most, "model": PROPOSER},
        "additional_config": {KEY: {name: value for name, value in ours.items() if value != {}}},
    }
    drafts = drafter.model_copy(update={"siblings": live.siblings, "shape": live.shape})
    return Arguments(config, choice.model_copy(update={"drafter": drafts}), tuple(checks), BESIDE)


def _model(choice: Choice, drafter: ModelSettings, budgets: Budgets | None, engine: Engine) -> Arguments:
    """A trained head or a small model."""
    method = METHOD[drafter.kind]
    if drafter.strategies is not None:
        text = "vLLM is told to verify one path of drafts, no tree: give the drafter a curve in place of strategies"
        return without_drafts(choice, Check("refused", f"{text}; the settings are those without drafts", CONFIG))
    if choice.draft_model is None and method != "mtp":
        text = f"{method} drafts with weights of its own: name them with draft_model; the settings are those without drafts"
        return without_drafts(choice, Check("refused", text, CONFIG))
    model = drafter.drafter()
    assert isinstance(model, Modelled), "it has no strategies"
    positions = model.curve.positions
    weights = {} if choice.draft_model is None else {"model": choice.draft_model}
    cut = None if budgets is None else budgets.cut(positions)
    return _by_batch(choice, method, weights, cut, engine, positions)


def _by_batch(
    choice: Choice, method: Method, more: dict[str, Any], budgets: Budgets | None, engine: Engine, usual: int
) -> Arguments:
    """A method of vLLM's own under a constant K, or K by batch size; `usual` is the K where neither was asked for."""
    if lacking := _lacks(method, choice, engine):
        return lacking
    checks = []
    if budgets is None:
        budgets = constant(usual, choice.engine.max_num_seqs)
        text = f"{choice.policy} decides in code that vLLM has for no {method} drafts: the settings are those of fixed:{usual}"
        checks.append(Check("refused", text, RUNNER))
    if budgets.varies and (text := _no_schedule(choice, engine)):
        checks.append(
            Check("refused", f"{text}: the settings are those of fixed:{budgets.most}", f"{VLLM_CONFIG}; #45963")
        )
        budgets = constant(budgets.most, choice.engine.max_num_seqs)
    config: dict[str, Any] = {"method": method, "num_speculative_tokens": budgets.most, **more}
    if budgets.varies:
        config["num_speculative_tokens_per_batch_size"] = [list(one) for one in budgets.ranges]
        text = (
            "with K by batch size CUDA graphs of whole steps give way to those of pieces, but for model runner V2, and "
        )
        text += "throughput is reported to collapse where a batch crosses to K = 0: measure it"
        checks += [
            Check(
                "ok",
                "each batch size gets its K, counted over the sequences of the step before",
                f"{SCHEDULER}; #32374",
            ),
            Check("warning", text, f"{VLLM_CONFIG}; issue #49548"),
        ]
        if choice.engine.replicas > 1:
            text = "start each replica as an engine of its own: as ranks of one (--data-parallel-size) they lose K by batch size"
            checks.append(Check("warning", text, VLLM_CONFIG))
    if method != "ngram":
        text = "the head stays as it was trained while RL moves the target: its acceptance falls unless it is trained along"
        checks.append(Check("warning", text, CONFIG))
    if method == "mtp":
        text = "the model must have MTP layers of its own, and K beyond their number be a multiple of it, or vLLM does not start"
        checks.append(Check("warning", text, CONFIG))
    runs = {"policy": budgets.spec}
    return Arguments({"speculative_config": config}, choice.model_copy(update=runs), tuple(checks))


def _no_schedule(choice: Choice, engine: Engine) -> str:
    """Why this release does not draft by batch size here; nothing where it does."""
    if not engine.since(SCHEDULE_SINCE):
        return f"vLLM takes K by batch size from {SCHEDULE_SINCE} on (disable_by_batch_size, until 0.16, did nothing)"
    if choice.engine.data_parallel_size == 1:
        return ""
    what = "drops it" if engine.since(FALLS_BACK_SINCE) else "can hang"
    return f"with data_parallel_size = {choice.engine.data_parallel_size} vLLM {what} where ranks would get unlike K"


def _lacks(method: Method, choice: Choice, engine: Engine) -> Arguments | None:
    """Nothing drafted where the release does not have the method."""
    if engine.since(SINCE[method]):
        return None
    text = f"{engine} has no method {method}, which came with {SINCE[method]}: upgrade; the settings are those without drafts"
    return without_drafts(choice, Check("refused", text, CONFIG))
