"""What SGLang is told to draft, and what of the choice it really runs.

Read in SGLang's releases 0.5.1 to 0.5.23: `sglang/srt/server_args.py`, from 0.5.14 on `sglang/srt/arg_groups/`.
"""

import json
from typing import Any, Literal

from simulator.deploy.settings.budget import Budgets, budgets_of, constant
from simulator.deploy.settings.choice import Choice
from simulator.deploy.settings.engine import Engine
from simulator.deploy.settings.parts import Arguments, Check, instead, without_drafts
from simulator.drafting.model import Modelled
from simulator.drafting.settings import (
    HybridSettings,
    LastSettings,
    ModelSettings,
    NgramSettings,
    NothingSettings,
    SuffixSettings,
)
from simulator.drafting.trees import ModelTrees
from simulator.limits import FACTOR

ARGUMENTS = "sglang/srt/server_args.py"
HOOK = "sglang/srt/arg_groups/speculative_hook.py"
NGRAM = "sglang/srt/speculative/ngram_worker.py"
ADAPTIVE = "sglang/srt/speculative/adaptive_spec_params.py; sgl-project/sglang#24055"

Algorithm = Literal["NGRAM", "EAGLE", "EAGLE3", "STANDALONE", "DFLASH"]
SINCE: dict[Algorithm, str] = {
    "EAGLE": "0.5.1", "EAGLE3": "0.5.1", "STANDALONE": "0.5.2", "NGRAM": "0.5.3", "DFLASH": "0.5.11",
}  # fmt: skip
"""The first release that has an algorithm."""
ALGORITHM: dict[str, Algorithm] = {
    "eagle": "EAGLE", "eagle3": "EAGLE3", "mtp": "EAGLE", "draft_model": "STANDALONE", "parallel": "DFLASH",
}  # fmt: skip
"""Drafters that are models, by SGLang's names; a model's own MTP layers are an EAGLE head whose weights need no path."""
BY_BATCH_SINCE, TRIE_DEPTH_SINCE, CORPUS_SINCE, DFLASH_LOGPROBS_SINCE = "0.5.14", "0.5.10", "0.5.11", "0.5.18"
ADAPTIVE_FILE = "speculative_adaptive.json"
TRIE_DEPTH, USUAL = 18, 11
"""Of the trie of n-grams, and drafts beside the last token, unless told otherwise."""


def sglang_drafts(choice: Choice, engine: Engine) -> Arguments:
    """Return the speculative arguments, for the choice or for the nearest that this release runs."""
    budgets = budgets_of(choice.policy, choice.engine.max_num_seqs)
    drafter = choice.drafter
    if isinstance(drafter, NothingSettings) or (budgets is not None and budgets.most == 0):
        return without_drafts(choice)
    if isinstance(drafter, SuffixSettings | NgramSettings | LastSettings):
        return _ngram(choice, budgets, engine)
    if isinstance(drafter, HybridSettings):
        kind = drafter.model.kind
        nearest = sglang_drafts(choice.model_copy(update={"drafter": drafter.model}), engine)
        text = f"SGLang drafts by one algorithm, not by suffix and {kind} in turns: the settings are those of {kind}"
        return instead(nearest, text, ARGUMENTS)
    if isinstance(drafter, ModelSettings):
        return _model(choice, drafter, budgets, engine)
    text = f"SGLang has no drafter like {drafter.kind}: the settings are those without drafts"
    return without_drafts(choice, Check("refused", text, ARGUMENTS))


def _ngram(choice: Choice, budgets: Budgets | None, engine: Engine) -> Arguments:
    """SGLang's trie of what all requests have lately generated, the nearest to drafts from tokens."""
    if lacking := _lacks("NGRAM", choice, engine):
        return lacking
    asked = choice.drafter
    suffix = asked if isinstance(asked, SuffixSettings) else SuffixSettings(depth=TRIE_DEPTH)
    tree = suffix.shape == "tree"
    runs = SuffixSettings(
        scope="global", match="scored" if tree else "longest", shape=suffix.shape, window=0, depth=suffix.depth,
        factor=float(FACTOR.most or 0), min_prob=0.0, siblings="next-step" if tree else "live", cost=suffix.cost,
    )  # fmt: skip
    most = min(USUAL if budgets is None else budgets.most, suffix.depth - 1)
    checks = []
    if asked != runs:
        text = f"SGLang does not draft as {asked.kind} does here: the settings are those of NGRAM, which drafts from the last "
        text += f"{suffix.depth} tokens of every request on the engine, whatever its prompt"
        checks.append(Check("refused", text, NGRAM))
    if budgets is None or budgets.varies:
        text = f"NGRAM drafts as many tokens for every request in every step, not by {choice.policy}: the settings are those of "
        checks.append(Check("refused", f"{text}fixed:{most}", NGRAM))
    text = f"NGRAM verifies {most} drafts of every request in every step, found or not: advise prices them, replay does not"
    checks.append(Check("warning", text, f"{NGRAM}, _prepare_draft_tokens"))
    text = "a flush of the cache, as after a weight sync, empties the trie: nothing of earlier RL steps is drafted from"
    if engine.since(CORPUS_SINCE):
        text += (
            "; rollouts can be loaded again as an external corpus (POST /add_external_corpus), which is not simulated"
        )
    checks.append(Check("warning", text, f"{NGRAM}, clear_cache_pool"))
    config: dict[str, Any] = {"speculative_algorithm": "NGRAM", "speculative_num_draft_tokens": most + 1}
    if engine.since(TRIE_DEPTH_SINCE):
        config["speculative_ngram_max_trie_depth"] = suffix.depth
    else:
        config["speculative_ngram_branch_length"] = suffix.depth
        config["speculative_ngram_max_match_window_size"] = suffix.depth - 1
    if tree:
        text = "a tree needs --page-size 1, or --attention-backend flashinfer"
        checks.append(Check("warning", text, f"{HOOK}, _handle_ngram"))
    else:
        config |= {"speculative_ngram_max_bfs_breadth": 1, "speculative_ngram_match_type": "PROB"}
    update = {"policy": f"fixed:{most}", "drafter": runs}
    return Arguments(config, choice.model_copy(update=update), tuple(checks))


def _model(choice: Choice, drafter: ModelSettings, budgets: Budgets | None, engine: Engine) -> Arguments:
    """A trained head or a small model, which drafts a path, or trees of one shape."""
    algorithm = ALGORITHM[drafter.kind]
    if lacking := _lacks(algorithm, choice, engine):
        return lacking
    if choice.draft_model is None and drafter.kind != "mtp":
        text = f"{algorithm} drafts with weights of its own: name them with draft_model; the settings are those without drafts"
        return without_drafts(choice, Check("refused", text, ARGUMENTS))
    config: dict[str, Any] = {"speculative_algorithm": algorithm}
    if choice.draft_model is not None:
        config["speculative_draft_model_path"] = choice.draft_model
    text = "the head stays as it was trained while RL moves the target: its acceptance falls unless it is trained along"
    checks = [Check("warning", text, ARGUMENTS)]
    if drafter.kind == "mtp" and choice.draft_model is None:
        text = "the model must be one whose MTP layers SGLang loads as an EAGLE head without a path, or draft_model be named"
        checks.append(Check("warning", text, ARGUMENTS))
    if algorithm == "DFLASH" and not engine.since(DFLASH_LOGPROBS_SINCE):
        text = f"before {DFLASH_LOGPROBS_SINCE} DFLASH refuses requests for logprobs, as RL frameworks send: upgrade"
        checks.append(Check("warning", text, "sglang/srt/speculative/dflash_utils.py"))
    model = drafter.drafter()
    if isinstance(model, ModelTrees):
        return _tree(choice, model, config, budgets, checks)
    assert isinstance(model, Modelled), "a curve, then"
    return _path(choice, model.curve.positions, config, budgets, checks, engine)


def _tree(
    choice: Choice, model: ModelTrees, config: dict[str, Any], budgets: Budgets | None, checks: list[Check]
) -> Arguments:
    """The largest tree that the policy permits, in every step."""
    if budgets is None or budgets.varies or len(model.strategies) > 1:
        most = 0 if budgets is None else budgets.most
        one = next((one for one in reversed(model.strategies) if one.verify <= most), model.strategies[-1])
        text = f"SGLang drafts trees of one shape in every step: the settings are those of {one.name} alone"
        checks.insert(0, Check("refused", text, ARGUMENTS))
    else:
        one = model.strategies[0]
    config |= {
        "speculative_num_steps": one.depth, "speculative_eagle_topk": one.topk, "speculative_num_draft_tokens": one.verify + 1,
    }  # fmt: skip
    update = {"policy": f"fixed:{one.verify}", "drafter": choice.drafter.model_copy(update={"use": [one.name]})}
    return Arguments(config, choice.model_copy(update=update), tuple(checks))


def _path(
    choice: Choice, positions: int, config: dict[str, Any], budgets: Budgets | None, checks: list[Check], engine: Engine
) -> Arguments:
    """A path of K drafts, or K by batch size where SGLang's adaptive drafting can be told."""
    slots, algorithm = choice.engine.max_num_seqs, config["speculative_algorithm"]
    if budgets is None:
        budgets = constant(positions, slots)
        text = f"{choice.policy} decides in code that SGLang does not have: the settings are those of fixed:{positions}"
        checks.insert(0, Check("refused", text, ADAPTIVE))
    budgets = budgets.cut(positions)
    if budgets.varies and (text := _no_schedule(choice, algorithm, engine)):
        checks.insert(0, Check("refused", f"{text}: the settings are those of fixed:{budgets.most}", ADAPTIVE))
        budgets = constant(budgets.most, slots)
    if algorithm == "DFLASH":
        config["speculative_num_draft_tokens"] = budgets.most + 1
    else:
        config |= {
            "speculative_num_steps": budgets.most, "speculative_eagle_topk": 1, "speculative_num_draft_tokens": budgets.most + 1,
        }  # fmt: skip
    files = {}
    if budgets.varies:
        config |= {"speculative_adaptive": True, "speculative_adaptive_config": ADAPTIVE_FILE}
        files[ADAPTIVE_FILE] = json.dumps({str(first): {"candidate_steps": [k]} for first, _, k in budgets.ranges})
        text = "the batch size that decides is the one that CUDA graphs are padded to"
        checks.append(Check("warning", text, ADAPTIVE))
    update = {"policy": budgets.spec}
    return Arguments(config, choice.model_copy(update=update), tuple(checks), files=files)


def _no_schedule(choice: Choice, algorithm: Algorithm, engine: Engine) -> str:
    """Why this release does not draft by batch size here; nothing where it does."""
    if algorithm not in ("EAGLE", "EAGLE3"):
        return f"SGLang drafts by batch size with EAGLE and EAGLE3 alone, not with {algorithm}"
    if not engine.since(BY_BATCH_SINCE):
        return f"SGLang drafts by batch size from {BY_BATCH_SINCE} on (--speculative-adaptive-config)"
    if choice.engine.data_parallel_size > 1:
        return f"SGLang does not draft by batch size with data_parallel_size = {choice.engine.data_parallel_size}"
    return ""


def _lacks(algorithm: Algorithm, choice: Choice, engine: Engine) -> Arguments | None:
    """Nothing drafted where the release does not have the algorithm, or not on ranks that share experts."""
    if not engine.since(SINCE[algorithm]):
        text = f"{engine} has no algorithm {algorithm}, which came with {SINCE[algorithm]}: upgrade"
    elif choice.engine.data_parallel_size > 1 and algorithm in ("NGRAM", "STANDALONE"):
        text = f"SGLang does not start {algorithm} with data_parallel_size = {choice.engine.data_parallel_size}"
    else:
        return None
    return without_drafts(choice, Check("refused", f"{text}; the settings are those without drafts", ARGUMENTS))
