"""Small made-up runs in each format, and how to write them."""

import json

KWARGS = {"max_num_seqs": 8, "max_num_batched_tokens": 512, "tensor_parallel_size": 1, "dtype": "bfloat16"}
META = {"model": "m", "vllm_version": "0.19.0", "num_requests": 3, "engine_kwargs": KWARGS}
ROWS = [
    {"request_id": "b", "input_toks": 20, "output_toks": 3, "arrival_time": 1000.5, "queued_ts": 50.75, "scheduled_ts": 51.0,
     "first_token_ts": 52.0, "last_token_ts": 54.0},
    {"request_id": "a", "input_toks": 10, "output_toks": 1, "arrival_time": 1000.0, "queued_ts": 50.0, "scheduled_ts": 50.25,
     "first_token_ts": 51.0, "last_token_ts": 51.0},
    {"request_id": "c", "input_toks": 30, "output_toks": 2, "arrival_time": 1001.0, "queued_ts": 51.0, "scheduled_ts": 51.5,
     "first_token_ts": 53.0, "last_token_ts": 54.5},
]  # fmt: skip
BENCH = {
    "model_id": "m", "request_rate": 2.0, "max_concurrency": None, "request_throughput": 1.0, "duration": 3.0,
    "input_lens": [20, 10, 30], "output_lens": [3, 1, 2], "ttfts": [1.0, 0.5, 0.25], "itls": [[0.5, 0.25], [], [2.0]],
    "errors": ["", "", ""], "start_times": [70.5, 70.0, 71.0],
}  # fmt: skip
SERVER = {"model_path": "org/m", "max_running_requests": 64, "chunked_prefill_size": 2048, "page_size": 16, "tp_size": 2,
          "dp_size": 1, "context_length": None, "disable_radix_cache": True, "max_total_num_tokens": 1600}  # fmt: skip
DEPLOYMENT = {
    "link_bw": 16, "link_latency": 1000, "nodes": [{"num_instances": 1, "instances": [
        {"hardware": "X", "npu_mem": {"mem_size": 24, "mem_util": 0.9}, "num_npus": 2, "tp_size": 2, "pd_type": None}]}],
}  # fmt: skip


def write_log(folder, rows=ROWS, meta=META, ticks=None):
    folder.mkdir(exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if ticks is not None:
        (folder / "timeseries.csv").write_text(
            "t,prompt_throughput,gen_throughput,running,waiting,kv_cache_pct\n" + "\n".join(ticks)
        )
    return folder


def write_json(path, document):
    path.write_text(json.dumps(document) + "\n")
    return path
