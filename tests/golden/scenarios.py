"""The golden scenarios: every built-in policy and drafter, limits on and off, arrivals, turns, live siblings, comparison."""

from typing import Any, NamedTuple

H100 = "h100-llama-3.1-8b-published"
TABLES = ["none", "fixed:4", "unlimited", "threshold:4@16", "schedule:1-8=6,16-64=2", "buckets:live=64,budgets=48/32/16/8",
          "classes", "classes:by=history", "das", "das:form=printed",
          "das:predictor=ema,refresh=8", "das:budgets=0/4/12,cap=8"]  # fmt: skip
ASKED = ["none", "goodput", "goodput:max=4,interval=5", "aimd", "aimd:variant=double",
         "bandit:patience=0,strategies=48/32/16/8", "bandit:strategies=48/32/16/8", "seer", "seer:high=probe",
         "tests.golden.policies:by_length", "tests.golden.policies:Prepared"]  # fmt: skip
FEW = ["none", "fixed:3", "unlimited", "das"]
CURVE = [0.8, 0.7, 0.6, 0.5]
PASS = {"per_pass_s": 0.0007, "per_step_s": 0.0003, "per_pass_kv_token_s": 1e-9}
EAGLE = {"kind": "eagle", "curve": CURVE, "cost": PASS}
LIMITS = {"num_gpu_blocks": 120, "max_num_batched_tokens": 64, "max_num_seqs": 12, "enable_prefix_caching": True}


class Golden(NamedTuple):
    """A scenario; `trace`: shipped:NAME, made:KIND or shared:NAME, the last with `:TOKENS` for short rollouts alone."""

    trace: str
    document: dict[str, Any]


def of(trace: str, policies: list[str], drafter: dict[str, Any] | None = None, **more: Any) -> Golden:
    engine = {"max_num_seqs": 16} | more.pop("engine", {})
    costs = {} if "model" in more else {"profile": H100}
    drafts = {} if drafter is None else {"drafter": drafter}
    return Golden(trace, costs | {"policies": policies, "engine": engine, **drafts, **more})


SCENARIOS: dict[str, Golden] = {
    "readme": of("shipped:countdown", ["none", "fixed:4", "unlimited", "das"], {"kind": "suffix"}, steps=[20],
                 engine={"max_num_seqs": 64}),
    "tables": of("shipped:countdown", TABLES, {"window": 2}, steps=[19, 20], engine={"max_num_seqs": 64}),
    "asked": of("shipped:countdown", ASKED, {"window": 2}, steps=[19, 20], engine={"max_num_seqs": 64, "replicas": 2}),
    "cold": of("shipped:countdown", TABLES + ASKED[1:], steps=[0], engine={"max_num_seqs": 64}),
    "compare": of("shipped:countdown", FEW, {"window": 2}, steps=[20], engine={"max_num_seqs": 64},
                  compare={"bootstrap": 20, "profile_error": 0.1, "baseline": "fixed:3"}),
    "measured profile": of("shipped:countdown", FEW, {"window": 1}, steps=[5], profile="epyc-dense-4-layers"),
    "estimate": of("shipped:demo", FEW, model="qwen3-8b", device="h200", tensor_parallel_size=2,
                   engine={"num_gpu_blocks": "auto", "cudagraph_capture_sizes": "vllm", "max_num_batched_tokens": 512}),
    "estimate moe": of("shipped:demo", FEW, model="qwen3-30b-a3b", device="h100"),
    "r1 profile": of("shipped:demo", FEW, profile="h100-r1-distill-qwen-7b-published", seed=4),
    # drafters
    "global": of("shipped:demo", FEW, {"scope": "global", "newest": 1, "newest_weight": 5}),
    "request": of("shipped:demo", FEW, {"scope": "request"}),
    "no own": of("shipped:demo", FEW, {"own": False, "depth": 8, "factor": 2.0, "min_prob": 0.3, "cost": "none"}),
    "scored": of("shipped:demo", FEW, {"match": "scored", "window": 2}),
    "tree": of("made:plain", FEW, {"match": "scored", "shape": "tree"}),
    "ngram": of("shipped:demo", FEW, {"kind": "ngram", "prompt_lookup_min": 2}),
    "last": of("shipped:demo", FEW, {"kind": "last"}),
    "last without resync": of("shipped:demo", FEW, {"kind": "last", "window": 2, "resync": False}),
    "eagle": of("shipped:demo", FEW, EAGLE),
    "draft_model": of("shipped:demo", FEW, EAGLE | {"kind": "draft_model", "spread": 0.2, "drift_per_step": -0.1}),
    "mtp": of("shipped:demo", FEW, EAGLE | {"kind": "mtp", "draft_tokens": 2}),
    "parallel": of("shipped:demo", FEW, EAGLE | {"kind": "parallel"}),
    "recorded": of("made:recorded", FEW, {"kind": "recorded", "draft_tokens": 4, "cost": PASS}),
    "hybrid": of("made:plain", FEW, {"kind": "hybrid", "model": EAGLE}),
    "hybrid by length": of("made:plain", FEW, {"kind": "hybrid", "model": EAGLE, "suffix": {"match": "longest"}}),
    "none": of("shipped:demo", FEW, {"kind": "none"}),
    "live": of("made:plain", FEW, {"siblings": "live"}, engine={"replicas": 2}),
    "live scored global": of("made:plain", FEW, {"siblings": "live", "match": "scored", "scope": "global"}),
    "live under limits": of("made:plain", FEW, {"siblings": "live"}, engine=LIMITS | {"async_scheduling": True}),
    # the engine
    "limits": of("made:plain", [*FEW, "aimd"], engine=LIMITS),
    "limits async": of("made:plain", [*FEW, "seer"], engine=LIMITS | {"async_scheduling": True, "step_overhead_s": 1e-3}),
    "limits lookahead": of("made:plain", FEW, EAGLE, engine={"num_gpu_blocks": 150, "scheduler_reserve_full_isl": False}),
    "whole prefills": of("made:plain", FEW, engine={"max_num_batched_tokens": 700, "enable_chunked_prefill": False}),
    "padded": of("made:plain", FEW, engine={"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32], "replicas": 3}),
    "shared queue": of("shipped:demo", FEW, engine={"replicas": 4}),
    "static": of("shipped:demo", FEW, engine={"replicas": 4, "dispatch": "static"}),
    "round robin": of("shipped:demo", FEW, engine={"replicas": 4, "dispatch": "round_robin"}),
    "least loaded": of("shipped:demo", FEW, engine={"replicas": 4, "dispatch": "least_loaded"}),
    "arrivals": of("made:arriving", [*FEW, "goodput"], engine={"replicas": 2, "dispatch": "least_loaded"}),
    "arrivals shared": of("made:arriving", FEW, engine=LIMITS | {"replicas": 2}),
    "arrivals ignored": of("made:arriving", FEW, engine={"arrivals": False}),
    "turns": of("made:turning", [*FEW, "bandit:patience=0,strategies=48/32/16/8"], engine=LIMITS),
    "turns without limits": of("made:turning", FEW),
    "seeds": of("made:plain", FEW, EAGLE | {"spread": 0.3}, compare={"bootstrap": 5, "seeds": 3}),
    # third-party rollouts
    "llama3b": of("shared:llama3b_rl_math", ["none", "fixed:4", "unlimited", "das"], steps=[1], engine={"max_num_seqs": 256}),
    "qwq32b": of("shared:qwq32b_long_cot:4000", FEW),
    "qwen3": of("shared:qwen3_30b_a3b_long_cot:4000", FEW, {"match": "scored", "own": True}, engine={"replicas": 2}),
    "azure": of("shared:azure", ["none"], {"kind": "none"}, engine={"replicas": 2, "max_num_batched_tokens": 2048,
                "max_num_seqs": 64, "dispatch": "round_robin"}),
    "mooncake": of("shared:mooncake", ["none"], {"kind": "none"}, model="llama-3.1-8b", device="h200", engine={
                "num_gpu_blocks": 40_000, "enable_prefix_caching": True, "max_num_seqs": 64, "max_num_batched_tokens": 8192}),
}  # fmt: skip
