"""What settings say that they run: asked for by itself it is the same settings, and nothing of it is refused."""

import itertools
import json
from typing import Any

import pytest

from simulator.deploy.settings import engine_settings
from tests.deploy.settings.choices import HEAD, OWN_SUFFIX, refusals, settings

DRAFTERS: list[dict[str, Any]] = [
    {"kind": "none"}, {"kind": "suffix"}, OWN_SUFFIX, {"kind": "suffix", "scope": "request", "match": "scored"},
    {"kind": "suffix", "match": "scored", "shape": "tree"}, {"kind": "suffix", "depth": 2}, {"kind": "ngram"}, {"kind": "last"},
    *({"kind": kind} | HEAD for kind in ("eagle", "mtp", "draft_model", "parallel", "diffusion")),
    {"kind": "hybrid", "model": {"kind": "eagle"} | HEAD}, {"kind": "recorded", "cost": "none", "draft_tokens": 3},
    {"kind": "eagle", "strategies": [{"depth": 2, "topk": n, "verify": 2 * n, "conditional": [0.5, 0.4]} for n in (2, 4)]},
]  # fmt: skip
POLICIES = (
    "none",
    "fixed:1",
    "fixed:255",
    "unlimited",
    "threshold:4@1",
    "threshold:4@64",
    "schedule:1=5,2-8=3,9-99=1",
    "das",
)
LIMITS: list[dict[str, Any]] = [
    {"max_num_seqs": 1},
    {"max_num_seqs": 64, "async_scheduling": True},
    {"max_num_seqs": 64, "replicas": 4, "data_parallel_size": 2},
]


@pytest.mark.parametrize(
    "engine",
    [
        *("vllm==0.10", "vllm==0.13", "vllm==0.23", "vllm==0.25", "vllm==0.33"),
        *("sglang==0.5.1", "sglang==0.5.11", "sglang==0.5.23"),
    ],
)
def test_what_runs_is_what_is_said(engine: str) -> None:
    for policy, drafter, limits in itertools.product(POLICIES, DRAFTERS, LIMITS):
        made = settings(engine, policy, drafter, limits=limits, history="rollouts.parquet")
        again = engine_settings(made.runs, made.engine)
        assert not refusals(again), (policy, drafter, limits)
        assert again.config == made.config, (policy, drafter, limits)
        assert again.files == made.files
        if made.runs != again.runs:
            assert made.runs.policy == again.runs.policy, (policy, drafter, limits)
        json.dumps(made.to_json(), allow_nan=False)
