"""What SGLang is told, by flags that its release has, and what of the choice that runs."""

import json
from typing import Any

import pytest
from packaging.version import Version

from simulator.drafting.settings import SuffixSettings
from tests.deploy.settings.choices import HEAD, OWN_SUFFIX, check_of, refusals, settings
from tests.deploy.settings.sglang_flags import algorithms_of_release, flags_of_release

RELEASES = ("0.5.1", "0.5.2", "0.5.3", "0.5.6", "0.5.10", "0.5.11", "0.5.13", "0.5.14", "0.5.18", "0.5.23")
DRAFTERS: list[dict[str, Any]] = [
    OWN_SUFFIX, {"kind": "ngram"}, {"kind": "last"}, {"kind": "suffix", "match": "scored", "shape": "tree"},
    *({"kind": kind} | HEAD for kind in ("eagle", "eagle3", "mtp", "draft_model", "parallel")),
]  # fmt: skip


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("policy", ["none", "fixed:4", "threshold:3@16", "das"])
def test_every_flag_is_one_of_that_release(release: str, policy: str) -> None:
    limits = {
        "max_num_seqs": 64, "max_num_batched_tokens": 4096, "max_model_len": 2048, "enable_prefix_caching": False,
        "block_size": 1, "num_gpu_blocks": 900, "async_scheduling": False,
    }  # fmt: skip
    known = flags_of_release(Version(release))
    for drafter in DRAFTERS:
        made = settings(
            f"sglang=={release}", policy, drafter, limits=limits, kv_cache_dtype="fp8", tensor_parallel_size=2
        )
        flags = {word[2:] for word in made.command if word.startswith("--")}
        assert flags <= known, drafter
        algorithm = made.config.get("speculative_algorithm")
        assert algorithm is None or algorithm in algorithms_of_release(Version(release))
        assert (algorithm is None) == (made.runs.policy == "none")


def test_a_flag_of_another_release_would_be_found() -> None:
    made = settings("sglang==0.5.9", "fixed:8", OWN_SUFFIX)
    flags = {word[2:] for word in made.command if word.startswith("--")}
    assert not flags <= flags_of_release(Version("0.5.10"))


def test_requests_that_may_run_are_said_in_any_case() -> None:
    made = settings("sglang==0.5.6", "fixed:3", {"kind": "eagle3"} | HEAD)
    assert made.config["max_running_requests"] == 64
    assert "48" in check_of(made, "max_running_requests").text
    ranks = settings(
        "sglang==0.5.23", "fixed:3", {"kind": "mtp"} | HEAD, limits={"replicas": 4, "data_parallel_size": 4}
    )
    assert {name: ranks.config[name] for name in ("max_running_requests", "tp_size", "dp_size", "enable_dp_attention")} == {
        "max_running_requests": 1024, "tp_size": 4, "dp_size": 4, "enable_dp_attention": True,
    }  # fmt: skip


def test_a_path_of_drafts_is_steps_of_one_token() -> None:
    made = settings("sglang==0.5.6", "fixed:3", {"kind": "eagle3"} | HEAD)
    assert made.config == {
        "max_running_requests": 64, "speculative_algorithm": "EAGLE3", "speculative_draft_model_path": "org/head",
        "speculative_num_steps": 3, "speculative_eagle_topk": 1, "speculative_num_draft_tokens": 4,
    }  # fmt: skip
    assert made.shell.startswith("python -m sglang.launch_server --model-path org/model --max-running-requests 64 ")
    assert not refusals(made)


def test_a_tree_is_its_strategy() -> None:
    trees = [
        {"depth": 2, "topk": 2, "verify": 4, "conditional": [0.5, 0.4]},
        {"depth": 3, "topk": 4, "verify": 8, "conditional": [0.5, 0.4, 0.3]},
    ]
    one = settings("sglang==0.5.6", "fixed:8", {"kind": "eagle3", "strategies": trees[1:]})
    assert [one.config[f"speculative_{name}"] for name in ("num_steps", "eagle_topk", "num_draft_tokens")] == [3, 4, 9]
    assert not refusals(one)
    both = settings("sglang==0.5.6", "fixed:4", {"kind": "eagle3", "strategies": trees})
    assert both.config["speculative_num_draft_tokens"] == 5
    assert "trees of one shape" in refusals(both)[0]
    assert both.runs.policy == "fixed:4"


def test_k_by_batch_size_is_a_file_of_adaptive_steps() -> None:
    made = settings("sglang==0.5.14", "threshold:3@16", {"kind": "eagle"} | HEAD)
    assert made.config["speculative_adaptive"] is True
    (name, text), *others = made.files.items()
    assert made.config["speculative_adaptive_config"] == name
    assert json.loads(text) == {"1": {"candidate_steps": [3]}, "17": {"candidate_steps": [0]}}
    assert not others
    assert made.config["speculative_num_steps"] in {3, 0}, "SGLang wants it to be one of the steps"
    assert made.runs.policy == "schedule:1-16=3,17-64=0"
    assert not refusals(made)


@pytest.mark.parametrize(
    ("release", "drafter", "limits", "says"),
    [
        ("0.5.13", {"kind": "eagle"} | HEAD, {}, "from 0.5.14 on"),
        ("0.5.23", {"kind": "parallel"} | HEAD, {}, "with EAGLE and EAGLE3 alone, not with DFLASH"),
        ("0.5.23", {"kind": "eagle"} | HEAD, {"replicas": 2, "data_parallel_size": 2}, "data_parallel_size = 2"),
        ("0.5.23", OWN_SUFFIX, {}, "not by threshold:3@16"),
    ],
)
def test_k_by_batch_size_is_refused_elsewhere(
    release: str, drafter: dict[str, Any], limits: dict[str, Any], says: str
) -> None:
    made = settings(f"sglang=={release}", "threshold:3@16", drafter, limits={"max_num_seqs": 64} | limits)
    assert [text for text in refusals(made) if says in text]
    assert made.runs.policy == "fixed:3"
    assert not made.files


@pytest.mark.parametrize("policy", ["das", "seer", "classes", "goodput"])
def test_sglang_has_no_policies_of_that_kind_and_the_nearest_is_said(policy: str) -> None:
    made = settings("sglang==0.5.23", policy, {"kind": "suffix", "depth": 20})
    assert made.config["speculative_algorithm"] == "NGRAM"
    assert [text for text in refusals(made) if f"not by {policy}: the settings are those of fixed:11" in text]
    runs = made.runs.drafter
    assert isinstance(runs, SuffixSettings)
    assert (runs.scope, runs.window, runs.depth, runs.siblings) == ("global", 0, 20, "live")
    assert made.config["speculative_num_draft_tokens"] == 12
    assert made.config["speculative_ngram_max_trie_depth"] == 20
    assert "empties the trie" in check_of(made, "weight sync").text


def test_what_sglang_drafts_is_not_refused_where_it_is_asked_for() -> None:
    like = {"kind": "suffix", "scope": "global", "window": 0, "factor": 255.0, "min_prob": 0.0, "siblings": "live"}
    for cost in ("none", "suffix-epyc"):
        made = settings("sglang==0.5.23", "fixed:6", like | {"depth": 18, "cost": cost})
        assert not refusals(made)
        assert made.config["speculative_num_draft_tokens"] == 7


def test_ngrams_do_not_start_on_ranks_that_share_experts() -> None:
    made = settings("sglang==0.5.23", "fixed:4", OWN_SUFFIX, limits={"replicas": 2, "data_parallel_size": 2})
    assert "speculative_algorithm" not in made.config
    assert made.runs.policy == "none"
    assert "data_parallel_size = 2" in refusals(made)[0]


def test_limits_that_have_no_like_are_said() -> None:
    made = settings(
        "sglang==0.5.3", "none", OWN_SUFFIX, kv_cache_dtype="bfloat16",
        limits={"enable_chunked_prefill": False, "cudagraph_capture_sizes": (1, 2)},
    )  # fmt: skip
    assert made.config == {"max_running_requests": 256, "chunked_prefill_size": -1}
    assert check_of(made, "bfloat16").level == "warning"
    assert check_of(made, "cudagraph_capture_sizes").level == "warning"
    assert settings("sglang==0.5.6", "none", OWN_SUFFIX, kv_cache_dtype="bfloat16").config["kv_cache_dtype"] == "bf16"
