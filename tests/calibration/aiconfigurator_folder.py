"""A folder as aiconfigurator's, of a made-up device whose kernels obey simple laws, so that an import can be predicted."""

import itertools
from pathlib import Path

import pandas as pd
import yaml

BANDWIDTH, PEAK = 4e12, 1e15
FIGURES = {
    "mem_bw": int(BANDWIDTH),
    "mem_bw_empirical_scaling_factor": 0.8,
    "mem_empirical_constant_latency": 3e-6,
    "bfloat16_tc_flops": int(PEAK),
}
LINK = {"intra_node_bw": 1e11, "p2p_latency": 5e-6}
SYSTEM, ENGINE, VERSION = "toy_sxm", "vllm", "0.10.0"
M, N = (1, 16, 256, 4096), (512, 1024, 2048, 4096, 8192)
BATCHES, LENGTHS = (1, 2, 4, 8), (16, 256, 4096)
HEADS = ((8, 2), (16, 2), (4, 1), (8, 1))
TOKENS = (1, 16, 256, 4096)
SIZES = (128, 1024, 2**20, 2**24)
CONFIG = {
    "_name_or_path": "toys/toy-1b",
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
}
MOE = CONFIG | {
    "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512,
}  # fmt: skip


def gemm_s(m, n, k):
    """Bytes over bandwidth, operations over peak, and a launch: linear in n, and in k."""
    return 2e-6 + 2 * (m * k + n * k + m * n) / (0.8 * BANDWIDTH) + 2 * m * n * k / (0.9 * PEAK)


def decode_s(batch, context, heads, kv_heads):
    return 5e-6 + 4 * kv_heads * 128 * batch * context / (0.9 * BANDWIDTH) + 1e-8 * heads


def prefill_s(batch, chunk, heads):
    return 5e-6 + 4 * heads * 128 * batch * chunk * (chunk + 1) / 2 / (0.6 * PEAK)


def reduce_s(elements):
    return 4e-6 + elements * 2 / 3e11


def tables(engine: str = ENGINE) -> dict[str, pd.DataFrame]:
    """Rows of every table by its path below the system's folder; all-reduces take nine times as long outside a graph."""
    device = {"device": "NVIDIA Toy"}
    dtypes = {"window_size": 0, "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "head_dim": 128}
    gemm = [
        {"gemm_dtype": "bfloat16", "m": m, "n": n, "k": k, "latency": 1e3 * gemm_s(m, n, k)}
        for m, n, k in itertools.product(M, N, N)
    ]
    decode = [
        {
            "batch_size": b,
            "step": c - 1,
            "num_heads": h,
            "num_key_value_heads": kv,
            "latency": 1e3 * decode_s(b, c, h, kv),
        }
        for b, c, (h, kv) in itertools.product(BATCHES, LENGTHS, HEADS)
        if b * c < 8 * 4096  # the largest was not measured
    ]
    prefill = [
        {"batch_size": b, "isl": c, "num_heads": h, "num_key_value_heads": kv, "latency": 1e3 * prefill_s(b, c, h)}
        for b, c, (h, kv) in itertools.product(BATCHES, LENGTHS, HEADS)
    ]
    moe = [
        {"moe_dtype": "bfloat16", "hidden_size": 1024, "inter_size": 512, "topk": 2, "num_experts": 8, "num_tokens": tokens,
         "moe_tp_size": tp, "moe_ep_size": ep, "distribution": routing, "latency": 0.01 * (1 + tokens / 64) / (tp * ep) * slow}
        for tokens in TOKENS
        for tp, ep in ((1, 1), (2, 1), (1, 2))
        for routing, slow in (("balanced", 1.0), ("power_law_1.2", 1.5))
    ]  # fmt: skip
    reduce = [
        {
            "allreduce_dtype": "bfloat16",
            "num_gpus": 2,
            "backend": backend,
            "message_size": size,
            "latency": 1e3 * slow * reduce_s(size),
        }
        for backend, slow in ((f"{engine}_graph", 1.0), (f"{engine}_eager", 9.0))
        for size in SIZES
    ]
    nccl = [
        {
            "nccl_dtype": dtype,
            "num_gpus": 2,
            "op_name": "all_reduce",
            "message_size": size,
            "latency": 2e3 * reduce_s(size),
        }
        for dtype in ("half", "int8")
        for size in (*SIZES, 2**25)
    ]
    found = {
        f"gemm/{engine}/{VERSION}/gemm": gemm,
        f"attention/{engine}/{VERSION}/generation_attention": decode,
        f"attention/{engine}/{VERSION}/context_attention": prefill,
        f"moe/{engine}/{VERSION}/moe": moe,
        f"comm/{engine}/{VERSION}/custom_allreduce": reduce,
        "comm/nccl/2.1.0/nccl": nccl,
    }
    frames = {path: pd.DataFrame(rows).assign(**device) for path, rows in found.items()}
    return {path: frame.assign(**dtypes) if "attention" in path else frame for path, frame in frames.items()}


def write_folder(
    folder: Path,
    changed: dict[str, pd.DataFrame | None] | None = None,
    figures: dict | None = None,
    engine: str = ENGINE,
    packaged: bool = False,
) -> Path:
    """Write the folder and return it, some tables changed or, where None, left out; as the package lays it out or flat."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"data_dir": f"data/{SYSTEM}", "gpu": FIGURES if figures is None else figures, "node": LINK}
    (folder / f"{SYSTEM}.yaml").write_text(yaml.safe_dump(document))
    data = folder / "data" / SYSTEM if packaged else folder / SYSTEM
    for path, frame in (tables(engine) | (changed or {})).items():
        file = data / f"{path}_perf.parquet"
        if frame is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            frame.to_parquet(file)
    return folder
