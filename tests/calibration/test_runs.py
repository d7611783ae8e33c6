"""Readers of measured runs: what real and made-up logs hold, and which line is told of what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from calibration.runs.facts import EngineFacts
from calibration.runs.read import read_run
from tests.calibration.logs import BENCH, KWARGS, META, ROWS, SERVER, write_json, write_log
from traces.errors import InputError


def without(document, *keys):
    return {key: value for key, value in document.items() if key not in keys}


def refusal(path):
    with pytest.raises(InputError) as error:
        read_run(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "blocks", "largest_graph"), [("RTX4090-Llama-3.1-8B", 2588, 512), ("RTXPRO6000-Llama-3.1-8B", None, None)]
)
def test_real_logs(shared_data: Path, name: str, blocks: int | None, largest_graph: int | None) -> None:
    run = read_run(shared_data / "vllm_runs" / name)
    assert (run.model, run.anchor, run.notes, len(run.requests)) == ("meta-llama/Llama-3.1-8B", "queued", (), 300)
    # The engine's time series counts the same tokens as the requests do.
    assert run.series is not None
    assert run.series.prompt_tokens_per_s.sum() == run.requests.prompt_tokens.sum() == 257239
    assert run.series.output_tokens_per_s.sum() == run.requests.output_tokens.sum() == 195753
    assert run.settings.num_gpu_blocks == blocks
    sizes = run.settings.cudagraph_capture_sizes
    assert sizes is None if largest_graph is None else sizes is not None and sizes[-1] == largest_graph
    requests = run.requests
    assert requests.arrival_s[0] == requests.queued_s.min() == 0.0
    assert (np.diff(requests.arrival_s) >= 0).all()
    assert (requests.queued_s <= requests.scheduled_s).all()
    assert (requests.scheduled_s <= requests.first_token_s).all()
    assert np.abs(requests.queued_s - requests.arrival_s).max() < 0.2  # two clocks, started within 2 ms of each other


def test_a_log_is_sorted_by_arrival_and_counts_from_the_first_event_of_each_clock(tmp_path: Path) -> None:
    ticks = ["1.0,30,1,2,1,12.5", "2.0,30,2,3,0,25"]
    run = read_run(write_log(tmp_path / "log", ticks=ticks))
    requests = run.requests
    assert requests.request_id == ("a", "b", "c")
    assert requests.arrival_s.tolist() == [0.0, 0.5, 1.0]
    assert requests.queued_s.tolist() == [0.0, 0.75, 1.0]
    assert requests.scheduled_s.tolist() == [0.25, 1.0, 1.5]
    assert requests.first_token_s.tolist() == [1.0, 2.0, 3.0]
    assert requests.last_token_s.tolist() == [1.0, 4.0, 4.5]
    assert requests.prompt_tokens.tolist() == [10, 20, 30]
    assert requests.output_tokens.tolist() == [1, 3, 2]
    assert run.series is not None
    assert run.series.kv_fraction.tolist() == [0.125, 0.25]
    assert run.settings == EngineFacts(**KWARGS, vllm_version="0.19.0")
    for file in ("meta.json", "requests.jsonl"):
        assert read_run(tmp_path / "log" / file).requests.request_id == requests.request_id


def test_arrivals_fall_back_to_queueing(tmp_path: Path) -> None:
    run = read_run(write_log(tmp_path, [without(row, "arrival_time", "scheduled_ts") for row in ROWS]))
    assert run.requests.arrival_s.tolist() == run.requests.queued_s.tolist() == [0.0, 0.75, 1.0]
    assert np.isnan(run.requests.scheduled_s).all()
    partly = refusal(write_log(tmp_path, [without(ROWS[0], "arrival_time"), *ROWS[1:]]))
    assert "requests.jsonl: 1 of 3 lines lack 'arrival_time'" in partly


def test_resolved_settings_win_over_those_asked_for(tmp_path: Path) -> None:
    resolved = {"cache_config": {"block_size": 32, "num_gpu_blocks": 99, "enable_prefix_caching": False},
                "scheduler_config": {"max_num_seqs": 4, "async_scheduling": True, "scheduler_reserve_full_isl": False},
                "model_config": {"dtype": "torch.float16", "enforce_eager": True},
                "compilation_config": {"cudagraph_capture_sizes": [4, 2, 1]}, "speculative_config": None}  # fmt: skip
    run = read_run(write_log(tmp_path, meta={**META, "kv_cache": {"num_gpu_blocks": 7}, "resolved_config": resolved}))
    assert run.settings == EngineFacts(
        max_num_seqs=4, max_num_batched_tokens=512, block_size=32, num_gpu_blocks=99, enable_prefix_caching=False,
        async_scheduling=True, cudagraph_capture_sizes=(), scheduler_reserve_full_isl=False, tensor_parallel_size=1,
        dtype="float16", vllm_version="0.19.0",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output_toks": 0}, None),
        ({"first_token_ts": None}, None),
        ({"last_token_ts": 0.0}, None),
        ({"error": "aborted"}, None),
        ({"input_toks": 0}, ("'input_toks'", "0", "less than 1")),
        ({"input_toks": 10**30}, ("'input_toks'", "is more than 2147483647")),
        ({"last_token_ts": float("inf")}, ("'last_token_ts'", "inf")),
        ({"output_toks": -1}, ("'output_toks'", "-1")),
        ({"output_toks": 1.5}, ("'output_toks'", "1.5")),
        ({"queued_ts": None}, ("'queued_ts'", "None")),
        ({"queued_ts": "soon"}, ("'queued_ts'", "soon")),
        ({"queued_ts": float("nan")}, ("'queued_ts'", "nan")),
        ({"arrival_time": True}, ("'arrival_time'", "True")),
        ({"scheduled_ts": 50.5}, ("'scheduled_ts'", "before queued_ts")),
        ({"scheduled_ts": None, "first_token_ts": 50.5}, ("'first_token_ts'", "before queued_ts")),
        ({"last_token_ts": 51.5}, ("'last_token_ts'", "before first_token_ts")),
        ({"request_id": "a"}, ("request_id 'a'", "line 1")),
    ],
)
def test_one_bad_line(tmp_path: Path, change: dict, words: tuple[str, ...] | None) -> None:
    """The bad line is the second; a failed request is left out and told of, everything else is refused."""
    rows = [ROWS[1], {**ROWS[0], **change}, ROWS[2]]
    folder = write_log(tmp_path, rows)
    if words is None:
        run = read_run(folder)
        assert run.requests.request_id == ("a", "c")
        assert "1 of 3 requests failed and are left out" in run.notes[0]
    else:
        message = refusal(folder)
        assert f"{tmp_path / 'requests.jsonl'}: line 2" in message
        assert all(word in message for word in words), message


def test_bad_log_files(tmp_path: Path) -> None:
    folder = write_log(tmp_path)
    (folder / "requests.jsonl").write_text(json.dumps(ROWS[0]) + "\n{broken\n")
    assert "requests.jsonl: line 2: is not JSON" in refusal(folder)
    write_log(folder, [without(ROWS[0], "last_token_ts")])
    assert "line 1: no 'last_token_ts'" in refusal(folder)
    (folder / "requests.jsonl").write_text("\n")
    assert "holds no request" in refusal(folder)
    write_log(folder, [row | {"output_toks": 0} for row in ROWS])
    assert "none of the 3 requests finished" in refusal(folder)
    assert "meta.json tells of 3 requests, requests.jsonl holds 2" in read_run(write_log(folder, ROWS[:2])).notes[0]
    for ticks, words in (
        (["1.0,30,1,2,1,x"], "line 2, column 'kv_cache_pct': 'x'"),
        (["1.0,30,1,2,-1,0"], "line 2, column 'waiting': -1"),
        (["1.0,30,1,2,1,0", "1.0,30,1,2,1,0"], "tick 2, column 't'"),
        (["1.0,30,1,2,1"], "5 cells, but the header has 6"),
        ([], "holds no tick"),
    ):
        assert words in refusal(write_log(folder, ticks=ticks))


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"engine_kwargs": {**KWARGS, "max_num_seqs": "many"}}, "meta.json: engine_kwargs, max_num_seqs: 'many'"),
        ({"engine_kwargs": [1]}, "engine_kwargs: [1] is not an object"),
        ({"kv_cache": {"gpu_memory_utilization": 1.5}}, "kv_cache, gpu_memory_utilization: 1.5"),
        ({"kv_cache": {"enable_prefix_caching": "yes"}}, "enable_prefix_caching: 'yes' is neither true nor false"),
        ({"engine_kwargs": {"speculative_config": {"method": "ngram"}}}, "speculative_config"),
        ({"engine_kwargs": {"pipeline_parallel_size": 2}}, "pipeline_parallel_size: 2 is not simulated"),
        (
            {"resolved_config": {"compilation_config": {"cudagraph_capture_sizes": [1, 1]}}},
            "cudagraph_capture_sizes: 1 is there twice",
        ),
    ],
)
def test_bad_meta(tmp_path: Path, meta: dict, words: str) -> None:
    assert words in refusal(write_log(tmp_path, meta={**META, **meta}))


def test_vllm_bench(tmp_path: Path) -> None:
    document = {**BENCH, "max_num_seqs": "64", "enable_prefix_caching": "false"}
    run = read_run(write_json(tmp_path / "result.json", document))
    assert (run.kind, run.model, run.anchor) == ("vllm bench serve", "m", "arrival")
    requests = run.requests
    assert requests.request_id == ("1", "0", "2")
    assert requests.arrival_s.tolist() == [0.0, 0.5, 1.0]
    assert requests.first_token_s.tolist() == [0.5, 1.5, 1.25]
    assert requests.last_token_s.tolist() == [0.5, 2.25, 3.25]
    assert np.isnan(requests.queued_s).all()
    assert run.settings == EngineFacts(max_num_seqs=64, enable_prefix_caching=False)
    (tmp_path / "notes.json").write_text("[1, 2]")
    assert read_run(tmp_path).requests.arrival_s.tolist() == [0.0, 0.5, 1.0]
    (tmp_path / "result.json").write_text(json.dumps(BENCH, indent=2))
    assert read_run(tmp_path).requests.prompt_tokens.tolist() == [10, 20, 30]


def test_bench_arrivals_are_known_only_where_the_file_tells(tmp_path: Path) -> None:
    untimed = without(BENCH, "start_times")
    path = tmp_path / "result.json"
    for change in (
        {"request_rate": "inf"},
        {"request_rate": float("inf")},
        {"request_rate": "inf", "max_concurrency": 3},
    ):
        assert read_run(write_json(path, {**untimed, **change})).requests.arrival_s.tolist() == [0.0, 0.0, 0.0]
    for change, words in (
        ({}, "request_rate 2.0"),
        ({"request_rate": "inf", "max_concurrency": 2}, "max_concurrency 2"),
        ({"request_rate": "inf", "ramp_up_strategy": "linear"}, "a ramp-up"),
        ({"request_rate": "trace"}, "request_rate 'trace'"),
    ):
        message = refusal(write_json(path, {**untimed, **change}))
        assert "no 'start_times'" in message
        assert words in message
    held = read_run(write_json(path, {**BENCH, "max_concurrency": 2}))
    assert any("at most 2 requests in flight" in note for note in held.notes)
    assert not any("in flight" in note for note in read_run(write_json(path, BENCH)).notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ttfts": [1.0, 0.5]}, "ttfts: 2 entries, but input_lens has 3"),
        ({"ttfts": [1.0, -0.5, 1.0]}, "ttfts[1]: -0.5 is less than 0"),
        ({"ttfts": None}, "ttfts: None is not a list"),
        ({"itls": [[0.5, None], [], [1.0]]}, "itls[0][1]: None"),
        ({"itls": [3, [], [1.0]]}, "itls[0]: 3 is not a list"),
        ({"itls": [[], [], []]}, "record with streaming on"),
        ({"input_lens": [20, "x", 30]}, "input_lens[1]: 'x'"),
        ({"output_lens": [3, -1, 2]}, "output_lens[1]: -1"),
        ({"start_times": [1.0]}, "start_times: need a list of 3 times"),
        ({"start_times": [1.0, "x", 2.0]}, "start_times[1]: 'x'"),
        ({"max_concurrency": 0}, "max_concurrency: 0 is less than 1"),
        ({"errors": ["x", "y", "z"]}, "none of the 3 requests finished"),
        ({"max_num_seqs": "lots"}, "max_num_seqs: 'lots'"),
        ({"spec_decode_acceptance_length": 2.5}, "spec_decode_acceptance_length: 2.5 is not simulated"),
    ],
)
def test_bad_bench(tmp_path: Path, change: dict, words: str) -> None:
    message = refusal(write_json(tmp_path / "result.json", {**BENCH, **change}))
    assert str(tmp_path / "result.json") in message
    assert words in message


def test_failed_requests_of_a_bench_are_left_out(tmp_path: Path) -> None:
    for change in ({"errors": ["", "timeout", ""]}, {"output_lens": [3, 0, 2]}):
        run = read_run(write_json(tmp_path / "result.json", {**BENCH, **change}))
        assert run.requests.request_id == ("0", "2")
        assert run.requests.arrival_s.tolist() == [0.0, 0.5]
        assert "1 of 3 requests failed and are left out" in run.notes[0]


def test_sglang(tmp_path: Path) -> None:
    document = {**without(BENCH, "model_id", "start_times"), "request_rate": float("inf"), "server_info": SERVER}
    run = read_run(write_json(tmp_path / "result.jsonl", document))
    assert (run.kind, run.model, run.anchor) == ("SGLang bench_serving", "org/m", "arrival")
    assert run.requests.last_token_s.tolist() == [1.75, 0.5, 2.25]
    assert run.settings == EngineFacts(
        max_num_seqs=64, max_num_batched_tokens=2048, block_size=16, num_gpu_blocks=101, enable_prefix_caching=False,
        tensor_parallel_size=2, data_parallel_size=1,
    )  # fmt: skip
    assert any("vLLM's scheduler" in note for note in run.notes)
    assert read_run(write_json(tmp_path / "result.jsonl", without(document, "server_info"))).model is None
    whole_prompts = {**document, "server_info": {**SERVER, "chunked_prefill_size": -1}}
    facts = read_run(write_json(tmp_path / "result.jsonl", whole_prompts)).settings
    assert (facts.enable_chunked_prefill, facts.max_num_batched_tokens) == (False, None)
    for key, value in (("speculative_algorithm", "EAGLE3"), ("pp_size", 2), ("disaggregation_mode", "prefill")):
        special = {**document, "server_info": {**SERVER, key: value}}
        assert f"server_info.{key}: {value!r} is not simulated" in refusal(
            write_json(tmp_path / "result.jsonl", special)
        )
    assert "accept_length: 2.5" in refusal(write_json(tmp_path / "result.jsonl", {**document, "accept_length": 2.5}))
    (tmp_path / "result.jsonl").write_text(2 * (json.dumps(document) + "\n"))
    assert "holds 2 runs, one a line" in refusal(tmp_path / "result.jsonl")
    summary = without(document, "ttfts", "itls", "errors", "input_lens", "output_lens")
    assert "with --output-details" in refusal(write_json(tmp_path / "result.jsonl", summary))


def test_what_is_no_run(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(tmp_path / "absent")
    assert "holds no run" in refusal(tmp_path)
    assert "is no run that can be read" in refusal(write_json(tmp_path / "config.json", {"nodes": []}))
    (tmp_path / "text.txt").write_text("hello\n")
    assert "text.txt: line 1: is not JSON" in refusal(tmp_path / "text.txt")
    write_json(tmp_path / "one.json", BENCH)
    write_json(tmp_path / "two.json", BENCH)
    assert "holds 2 runs (one.json, two.json)" in refusal(tmp_path)
    write_log(tmp_path / "log")
    (tmp_path / "log" / "meta.json").unlink()
    assert "no meta.json" in refusal(tmp_path / "log")
