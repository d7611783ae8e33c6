"""What vLLM is told, what of the choice that runs, and what is said where it is not all."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from calibration.live.steps import drafting_of
from simulator.deploy.settings import Choice, EngineSettings, choice_of
from simulator.deploy.vllm_proposer import ProposerSettings
from simulator.drafting.settings import SuffixSettings
from simulator.scenario import build, drafter_settings
from simulator.validated import made as validated
from tests.deploy.settings.choices import HEAD, OWN_SUFFIX, check_of, refusals, settings
from traces.errors import InputError

NGRAM: dict[str, Any] = {"kind": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4}


def speculative(made: EngineSettings) -> dict[str, Any]:
    config: dict[str, Any] = made.config["speculative_config"]
    return config


def test_nothing_drafted_is_no_setting_at_all() -> None:
    for policy, drafter in (("none", OWN_SUFFIX), ("fixed:0", NGRAM), ("fixed:4", {"kind": "none"})):
        made = settings("vllm==0.33", policy, drafter)
        assert made.config == {"max_num_seqs": 64}
        assert not refusals(made)


def test_suffix_decoding_of_vllms_own() -> None:
    made = settings("vllm==0.33", "fixed:8", OWN_SUFFIX | {"depth": 16, "factor": 2.0, "min_prob": 0.2})
    assert speculative(made) == {
        "method": "suffix", "num_speculative_tokens": 8, "suffix_decoding_max_tree_depth": 16,
        "suffix_decoding_max_cached_requests": 10_000, "suffix_decoding_max_spec_factor": 2.0,
        "suffix_decoding_min_token_prob": 0.2,
    }  # fmt: skip
    assert made.install == ("arctic-inference",)
    assert not refusals(made)
    alone = settings("vllm==0.33", "unlimited", {"kind": "suffix", "scope": "request", "match": "scored"})
    assert speculative(alone)["suffix_decoding_max_cached_requests"] == 0
    assert speculative(alone)["num_speculative_tokens"] == alone.runs.drafter.depth == 24  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("policy", "drafter"),
    [
        ("fixed:8", OWN_SUFFIX),
        ("fixed:8", {"kind": "suffix", "scope": "request", "match": "scored"}),
        ("fixed:4", NGRAM),
        ("schedule:1-16=8,17-64=2,65-512=0", NGRAM),
        ("threshold:4@32", NGRAM),
    ],
)
def test_settings_read_back_are_what_they_say_they_run(policy: str, drafter: dict[str, Any]) -> None:
    """By the code that simulates recorded runs of vLLM from their own speculative_config, every step equal to vLLM's."""
    made = settings("vllm==0.33", policy, drafter)
    back = drafting_of(SimpleNamespace(name="run", about={"speculative": speculative(made)}))  # type: ignore[arg-type]
    free = made.runs.drafter.model_copy(update={"cost": "none"})
    assert drafter_settings(back.drafter | {"cost": "none"}) == free
    assert back.policy == made.runs.policy


def test_a_schedule_is_ranges_that_do_not_overlap() -> None:
    made = settings("vllm==0.33", "threshold:4@32", NGRAM)
    assert speculative(made)["num_speculative_tokens_per_batch_size"] == [[1, 32, 4], [33, 64, 0]]
    assert made.runs.policy == "schedule:1-32=4,33-64=0"
    assert not refusals(made)
    gaps = settings("vllm==0.33", "schedule:1-8=4,17-4096=1", NGRAM)
    assert speculative(gaps)["num_speculative_tokens_per_batch_size"] == [[1, 16, 4], [17, 64, 1]]
    beyond = settings("vllm==0.33", "threshold:4@64", NGRAM)
    assert speculative(beyond) == {"method": "ngram", "num_speculative_tokens": 4} | {
        name: NGRAM[name] for name in ("prompt_lookup_min", "prompt_lookup_max")
    }


@pytest.mark.parametrize(
    ("engine", "limits", "says"),
    [
        ("vllm==0.23", {}, "vLLM takes K by batch size from 0.24 on"),
        ("vllm==0.25.1", {"replicas": 2, "data_parallel_size": 2}, "data_parallel_size = 2 vLLM can hang"),
        ("vllm==0.26", {"replicas": 2, "data_parallel_size": 2}, "data_parallel_size = 2 vLLM drops it"),
    ],
)
def test_a_schedule_that_is_not_taken_is_refused_and_left_out(engine: str, limits: dict[str, Any], says: str) -> None:
    made = settings(engine, "threshold:4@32", NGRAM, limits={"max_num_seqs": 64} | limits)
    assert "num_speculative_tokens_per_batch_size" not in speculative(made)
    assert made.runs.policy == "fixed:4"
    assert [text for text in refusals(made) if says in text]
    assert made.refused


def test_replicas_that_step_alone_keep_their_schedule_and_are_told_apart() -> None:
    made = settings("vllm==0.33", "threshold:4@32", NGRAM, limits={"max_num_seqs": 64, "replicas": 4})
    assert "data_parallel_size" not in made.config
    assert check_of(made, "an engine of its own").level == "warning"


def test_suffix_drafts_by_batch_size_go_to_the_proposer() -> None:
    """vLLM's own suffix decoding asserts that K is the same in every step."""
    made = settings("vllm==0.33", "schedule:1-8=8,9-64=2", OWN_SUFFIX)
    assert speculative(made)["method"] == "custom_class"
    assert "num_speculative_tokens_per_batch_size" not in speculative(made)
    assert made.config["additional_config"]["rolloutsim"]["policy"] == "schedule:1-8=8,9-64=2"
    assert check_of(made, "takes no K by batch size").level == "ok"
    assert not refusals(made)


@pytest.mark.parametrize("policy", ["das", "seer", "classes", "goodput", "aimd", "bandit", "adaptive", "buckets"])
def test_what_no_engine_decides_the_proposer_does(policy: str) -> None:
    drafter = {"kind": "suffix", "siblings": "live", "window": 4, "depth": 16}
    made = settings("vllm==0.33", policy, drafter, history="rollouts.parquet", profile="h100", max_tokens=1024)
    ours = made.config["additional_config"]["rolloutsim"]
    read = validated(ProposerSettings, ours)
    assert (read.policy, read.history, read.profile, read.max_tokens) == (policy, "rollouts.parquet", "h100", 1024)
    assert (read.drafter.window, read.drafter.depth, read.drafter.siblings) == (4, 16, "live")
    assert speculative(made)["num_speculative_tokens"] == 16
    assert made.runs.policy == policy
    assert not refusals(made)


def test_the_proposer_says_what_it_does_otherwise() -> None:
    made = settings("vllm==0.33", "das", {"kind": "suffix"})
    assert check_of(made, "siblings=next-step").level == "warning"
    assert check_of(made, "no history").level == "warning"
    assert made.runs.drafter == SuffixSettings(siblings="live")
    tree = settings("vllm==0.33", "das", {"kind": "suffix", "match": "scored", "shape": "tree"})
    assert "no tree" in refusals(tree)[0]


def test_releases_without_proposers_get_suffix_decoding() -> None:
    made = settings("vllm==0.20", "das", {"kind": "suffix", "depth": 16})
    assert speculative(made)["method"] == "suffix"
    assert "takes from 0.22 on" in refusals(made)[0]
    assert made.runs.policy == "fixed:16"
    assert isinstance(made.runs.drafter, SuffixSettings)
    assert made.runs.drafter.scope == "global"


@pytest.mark.parametrize(
    ("kind", "method", "since", "before"),
    [
        ("mtp", "mtp", "0.11", "0.10.2"),
        ("draft_model", "draft_model", "0.15", "0.14.1"),
        ("parallel", "dflash", "0.20", "0.19.1"),
        ("eagle3", "eagle3", "0.10", None),
    ],
)
def test_heads_by_the_release_that_first_runs_them(kind: str, method: str, since: str, before: str | None) -> None:
    made = settings(f"vllm=={since}", "fixed:3", {"kind": kind} | HEAD)
    assert speculative(made)["method"] == method
    assert speculative(made).get("model") == (None if kind == "mtp" else "org/head")
    if before:
        early = settings(f"vllm=={before}", "fixed:3", {"kind": kind} | HEAD)
        assert "speculative_config" not in early.config
        assert early.runs.policy == "none"
        assert "without drafts" in refusals(early)[0]


def test_suffix_decoding_came_with_012() -> None:
    early = settings("vllm==0.11", "das", {"kind": "suffix"})
    assert (early.runs.policy, len(refusals(early))) == ("none", 1)
    assert speculative(settings("vllm==0.12", "fixed:4", OWN_SUFFIX))["method"] == "suffix"
    assert settings("vllm==0.11.2", "fixed:4", OWN_SUFFIX).runs.policy == "none"


def test_heads_draft_no_more_than_their_curve_knows() -> None:
    made = settings("vllm==0.33", "threshold:9@8", {"kind": "eagle"} | HEAD)
    assert speculative(made)["num_speculative_tokens"] == 4
    assert made.runs.policy == "schedule:1-8=4,9-64=0"


def test_policies_that_decide_for_heads_are_refused_and_the_nearest_is_said() -> None:
    made = settings("vllm==0.33", "das", {"kind": "eagle"} | HEAD)
    assert "das decides in code that vLLM has for no eagle drafts" in refusals(made)[0]
    assert made.runs.policy == "fixed:4"
    assert speculative(made)["num_speculative_tokens"] == 4


@pytest.mark.parametrize(
    ("drafter", "says"),
    [
        ({"kind": "last", "window": 2}, "last rollout"),
        ({"kind": "hybrid", "model": {"kind": "mtp"} | HEAD}, "by one method alone"),
        ({"kind": "recorded", "cost": "none", "draft_tokens": 4}, "no drafter like recorded"),
        ({"kind": "diffusion"} | HEAD, "no drafter like diffusion"),
        (
            {"kind": "eagle3", "strategies": [{"depth": 2, "topk": 2, "verify": 4, "conditional": [0.5, 0.4]}]},
            "no tree",
        ),
    ],
)
def test_drafters_that_vllm_lacks_are_refused(drafter: dict[str, Any], says: str) -> None:
    made = settings("vllm==0.33", "fixed:4", drafter)
    assert says in refusals(made)[0]
    assert made.runs != settings("vllm==0.33", "none", drafter).runs or "speculative_config" not in made.config


def test_heads_without_weights_are_refused() -> None:
    made = settings("vllm==0.33", "fixed:3", {"kind": "eagle3"} | HEAD, draft_model=None)
    assert "name them with draft_model" in refusals(made)[0]


def test_limits_are_vllms_names_and_only_those_given() -> None:
    limits = {
        "max_num_seqs": 32, "max_num_batched_tokens": 4096, "max_model_len": 2048, "enable_prefix_caching": True,
        "enable_chunked_prefill": False, "block_size": 32, "num_gpu_blocks": 900, "cudagraph_capture_sizes": (1, 2, 4),
    }  # fmt: skip
    made = settings("vllm==0.33", "none", OWN_SUFFIX, limits=limits, tensor_parallel_size=2, kv_cache_dtype="fp8")
    assert made.config == {
        "max_num_seqs": 32, "max_num_batched_tokens": 4096, "max_model_len": 2048, "enable_prefix_caching": True,
        "enable_chunked_prefill": False, "block_size": 32, "num_gpu_blocks_override": 900,
        "compilation_config": {"cudagraph_capture_sizes": [1, 2, 4]}, "kv_cache_dtype": "fp8", "tensor_parallel_size": 2,
    }  # fmt: skip
    assert made.shell.startswith("vllm serve org/model --max-num-seqs 32 ")
    assert "--no-enable-chunked-prefill" in made.command


def test_async_scheduling_is_left_out_where_vllm_would_not_start() -> None:
    limits = {"max_num_seqs": 64, "async_scheduling": True}
    made = settings("vllm==0.33", "fixed:4", NGRAM, limits=limits)
    assert "async_scheduling" not in made.config
    assert not made.runs.engine.async_scheduling
    assert [text for text in refusals(made) if "async_scheduling" in text]
    assert settings("vllm==0.33", "fixed:3", {"kind": "mtp"} | HEAD, limits=limits).config["async_scheduling"] is True
    assert "async_scheduling" not in settings("vllm==0.11", "fixed:3", {"kind": "mtp"} | HEAD, limits=limits).config


def test_drafts_that_cost_scheduling_ahead_say_so() -> None:
    """vLLM schedules ahead of itself where nothing drafts, so that a comparison with none must, too."""
    assert "hold them against none" in check_of(settings("vllm==0.14", "fixed:4", NGRAM), "async_scheduling").text
    for made in (settings("vllm==0.13", "fixed:4", NGRAM), settings("vllm==0.33", "fixed:3", {"kind": "mtp"} | HEAD)):
        assert not [one for one in made.checks if "async_scheduling" in one.text]


def test_requests_that_are_not_drafted_for_are_told() -> None:
    assert "min_p" in check_of(settings("vllm==0.14", "fixed:4", NGRAM), "are refused as soon as").text
    assert "asks for logprobs" in check_of(settings("vllm==0.13", "fixed:4", NGRAM), "logprobs").text
    assert not [one for one in settings("vllm==0.14", "fixed:4", NGRAM).checks if "logprobs" in one.text]
    assert not [one for one in settings("vllm==0.13", "none", NGRAM).checks if "logprobs" in one.text]


def test_what_is_told_is_json_and_names_its_sources() -> None:
    made = settings("vllm==0.33", "das", {"kind": "suffix"}, framework="verl")
    told = json.loads(json.dumps(made.to_json()))
    assert told["config"] == made.config
    assert told["runs"]["policy"] == "das"
    assert all(one["text"] and one["level"] in ("ok", "warning", "refused") for one in told["checks"])
    assert all(one.source for one in made.checks)
    assert "disable_by_batch_size" not in json.dumps(told)


def test_refusals_come_first() -> None:
    order = [one.level for one in settings("vllm", "das", {"kind": "eagle"} | HEAD).checks]
    assert order == sorted(order, key=("refused", "warning", "ok").index)


def test_a_scenario_of_one_system_is_a_choice() -> None:
    document = {"trace": "t.parquet", "profile": "p", "policies": ["das"], "drafter": {"kind": "suffix", "window": 3}}
    found = choice_of(build(document), "org/model", max_tokens=99)
    assert (found.policy, found.history, found.profile, found.max_tokens) == ("das", "t.parquet", "p", 99)
    assert isinstance(found, Choice)
    with pytest.raises(InputError, match="compares 2: choose one"):
        choice_of(build(document | {"policies": ["das", "none"]}), "org/model")
    with pytest.raises(InputError, match="model: missing"):
        choice_of(build(document))
