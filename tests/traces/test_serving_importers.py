"""What serving leaves: public traces as CSV, results of benchmarks, responses of batches, engines' request metrics.

Files are laid out as these write them: BurstGPT, Vidur and splitwise-sim as published; vLLM 0.33 `vllm bench serve` and
`RequestSpecDecodeMetrics.to_dict`; SGLang 0.5.23 `bench_serving`, `FileRequestMetricsExporter.write_record` and
`_calculate_spec_decoding_metrics`; OpenAI's batch API.
"""

import json

import pytest

from tests.traces.test_agent_importers import columns, jsonl, note, refused, words
from traces.importers import import_trace

__all__ = ["words"]


def csv(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


# Public traces -------------------------------------------------------------------------------------------------------


def test_burstgpt(tmp_path):
    path = csv(
        tmp_path / "BurstGPT.csv",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "5,GPT-4,434,12,446,Conversation log",
        "45.5,ChatGPT,391,18,409,API log",
        "60,ChatGPT,30,0,30,API log",
    )
    assert "line 4: 0 output tokens: nothing to replay; use --drop-empty" in refused(path)
    table = import_trace(path, drop_empty=True)
    assert columns(table, "arrival_s", "policy", "prompt_tokens", "output_tokens", "prompt_id") == [
        [0.0, 40.5], ["GPT-4", "ChatGPT"], [434, 391], [12, 18], ["request-0", "request-1"]
    ]  # fmt: skip
    assert note(table)["format"] == "burstgpt"
    assert note(table)["assumed"] == ["each row is a prompt of its own (no prompt or prompt id)"]
    assert note(table)["ignored_columns"] == ["Total tokens", "Log Type"]


def test_vidur_and_splitwise(tmp_path):
    timed = csv(
        tmp_path / "splitwise_code.csv", "arrived_at,num_prefill_tokens,num_decode_tokens", "1.5,4808,10", "2.0,3180,8"
    )
    assert columns(import_trace(timed), "arrival_s", "prompt_tokens", "output_tokens") == [
        [0.0, 0.5],
        [4808, 3180],
        [10, 8],
    ]
    lengths = csv(
        tmp_path / "arxiv.csv", ",num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio", "0,20,5,25,4.0"
    )
    table = import_trace(lengths)
    assert "arrival_s" not in table.column_names
    assert "all requests are there at once (no arrived_at)" in note(table)["assumed"]
    header = "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size"
    simulated = csv(tmp_path / "conv.csv", header, "0,2,0,7.25,1,100,20", "1,2,0,8,1,50,10")
    table = import_trace(simulated)
    assert columns(table, "arrival_s", "prompt_tokens", "output_tokens") == [[0.0, 0.75], [100, 50], [20, 10]]
    assert note(table)["format"] == "splitwise"


def test_toolagent_and_azure_2024(tmp_path):
    row = {"timestamp": 500, "input_length": 3520, "output_length": 177, "hash_ids": [0, 1, 2]}
    assert columns(import_trace(jsonl(tmp_path / "t.jsonl", row)), "block_hashes") == [[[0, 1, 2]]]
    azure = csv(
        tmp_path / "a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens", "2024-05-10 00:00:00.009930+00:00,2162,5"
    )
    assert columns(import_trace(azure), "arrival_s", "prompt_tokens") == [[0.0], [2162]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("soon,GPT-4,1,2,3,x", "line 2, column 'Timestamp': 'soon' is not a number"),
        ("5,GPT-4,many,2,3,x", "line 2, column 'Request tokens': 'many' is not a whole number"),
        ("5,GPT-4,1,-2,3,x", "line 2, column 'Response tokens': -2 is less than 0"),
        ("5,GPT-4", "line 2: 2 cells, but the header has 6"),
    ],
)
def test_csv_refusals(tmp_path, row, message):
    path = csv(tmp_path / "b.csv", "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", row)
    assert message in refused(path)


# Benchmarks ----------------------------------------------------------------------------------------------------------

VLLM_BENCH = {
    "date": "20261129-120000", "endpoint_type": "openai", "num_prompts": 3, "request_rate": 20.0, "duration": 3.9, "completed": 2,
    "failed": 1, "total_input_tokens": 60, "total_output_tokens": 5, "input_lens": [10, 20, 30], "output_lens": [2, 0, 3],
    "start_times": [1000.0, 1000.05, 1000.5], "ttfts": [0.02] * 3, "itls": [[0.01], [], [0.01, 0.01]],
    "generated_texts": ["w1 w2", "", "w3 w4 w5"], "errors": ["", "", ""],
}  # fmt: skip


def test_results_of_vllm(tmp_path, words):
    path = tmp_path / "openai-20qps.json"
    path.write_text(json.dumps(VLLM_BENCH))
    assert "request 1: 0 output tokens" in refused(path)
    for text in (json.dumps(VLLM_BENCH), json.dumps(VLLM_BENCH, indent=2)):
        path.write_text(text)
        table = import_trace(path, drop_empty=True, tokenizer=words)
        assert columns(table, "arrival_s", "prompt_tokens", "output_tokens", "token_ids") == [
            [0.0, 0.5], [10, 30], [2, 3], [[1, 2], [3, 4, 5]]
        ]  # fmt: skip
    failed = VLLM_BENCH | {"output_lens": [2, 4, 3], "errors": ["", "timed out", ""]}
    path.write_text(json.dumps(failed))
    assert columns(import_trace(path, drop_empty=True), "output_tokens") == [[2, 3]]


def test_runs_of_sglang_are_a_step_each(tmp_path):
    run = {key: value for key, value in VLLM_BENCH.items() if key != "start_times"} | {"output_lens": [2, 1, 3]}
    table = import_trace(jsonl(tmp_path / "sglang_1129.jsonl", run, run | {"request_rate": float("inf")}))
    assert columns(table, "step", "output_tokens") == [[0, 0, 0, 1, 1, 1], [2, 1, 3] * 2]
    assert note(table)["format"] == "bench"
    assert any("no start_times" in sentence for sentence in note(table)["assumed"])
    bare = {key: value for key, value in run.items() if not isinstance(value, list)}
    message = refused(jsonl(tmp_path / "bare.jsonl", bare))
    assert "has no input_lens: run vLLM's benchmark with --save-detailed, SGLang's with --output-details" in message
    short = refused(jsonl(tmp_path / "short.jsonl", run | {"output_lens": [1]}))
    assert "3 input_lens, but 1 output_lens" in short


# OpenAI's responses --------------------------------------------------------------------------------------------------


def body(*choices, prompt=13, completion=34, **others):
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": {"cached_tokens": 8}}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": list(choices),
        "usage": usage,
        **others,
    }


def chat(text, index=0, reason="stop", **others):
    return {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": reason, **others}


def batch(identity, response_body, status=200, error=None):
    response = {"status_code": status, "request_id": "x", "body": response_body}
    return {"id": f"batch_{identity}", "custom_id": identity, "response": response, "error": error}


def test_output_of_batches(tmp_path, words):
    completion = {"index": 0, "text": "w7", "finish_reason": "stop", "logprobs": None}
    rows = [batch("p-0", body(chat("w1 w2", reason="length"))), batch("p-1", body(completion, completion=5))]
    path = jsonl(tmp_path / "output.jsonl", *rows)
    table = import_trace(path)
    assert note(table)["format"] == "openai"
    assert columns(table, "prompt_id", "prompt_tokens", "output_tokens", "finish_reason", "policy", "cached_tokens") == [
        ["p-0", "p-1"], [13, 13], [34, 5], ["length", "stop"], ["m", "m"], [8, 8]
    ]  # fmt: skip
    assert columns(import_trace(path, tokenizer=words), "token_ids") == [[[1, 2], [7]]]


def test_choices_of_one_request_are_a_group(tmp_path, words):
    path = jsonl(tmp_path / "o.jsonl", batch("p", body(chat("w1 w2"), chat("w3", 1))))
    assert "line 1: 2 choices share one count of tokens" in refused(path)
    table = import_trace(path, tokenizer=words)
    assert columns(table, "prompt_id", "sample", "output_tokens") == [["p", "p"], [0, 1], [2, 1]]


def test_failed_requests_are_dropped_and_counted(tmp_path):
    failed = [batch("b", {"error": {}}, 429), {"custom_id": "c", "response": None, "error": {"code": "expired"}}]
    path = jsonl(tmp_path / "o.jsonl", batch("a", body(chat("x"))), *failed)
    assert "line 2: 0 output tokens (and 1 more)" in refused(path)
    table = import_trace(path, drop_empty=True)
    assert (table.num_rows, note(table)["dropped_empty"]) == (1, 2)


SPECULATED = {
    "mean_acceptance_length": 2.0, "draft_acceptance_rate": 0.5, "acceptance_histogram": [1, 1, 1], "num_spec_steps": 3,
    "num_accepted_draft_tokens": 3, "num_draft_tokens": 6, "num_spec_tokens": 2,
}  # fmt: skip


def test_responses_of_vllm_with_ids_and_counts_of_speculation(tmp_path):
    response = body(
        chat("w1", token_ids=[5, 6]), prompt_token_ids=[1, 2, 3], metrics={"speculative_decoding": SPECULATED}
    )
    table = import_trace(jsonl(tmp_path / "responses.jsonl", response, response | {"id": "chatcmpl-2"}))
    assert columns(table, "prompt_id", "prompt_token_ids", "token_ids", "output_tokens") == [
        ["chatcmpl-1", "chatcmpl-2"], [[1, 2, 3]] * 2, [[5, 6]] * 2, [2, 2]
    ]  # fmt: skip
    assert columns(table, "spec_steps", "spec_drafted_tokens", "spec_accepted_tokens") == [[3, 3], [6, 6], [3, 3]]


# SGLang's requests ---------------------------------------------------------------------------------------------------


def sglang(prompt, received, **counts):
    asked = {"rid": "r", "text": prompt, "sampling_params": {"n": 1}, "stream": False}
    return {
        "request_parameters": json.dumps(asked), "id": "r", "finish_reason": {"type": "length", "length": 30}, "prompt_tokens": 7,
        "completion_tokens": 30, "cached_tokens": 4, "request_received_ts": received, "e2e_latency": 1.5,
    } | counts  # fmt: skip


def test_request_metrics_of_sglang_in_every_spelling(tmp_path):
    rows = [
        sglang("a", 1.7e9, spec_verify_ct=10, spec_num_correct_drafts=19, spec_num_proposed_drafts=30),
        sglang("a", 1.7e9 + 2, spec_verify_ct=10, spec_accepted_drafts=18, spec_proposed_drafts=30),
        sglang("b", 1.7e9 + 1, spec_verify_ct=10, spec_accept_token_num=17, spec_draft_token_num=30),
        sglang("b", 1.7e9 + 3, spec_verify_ct=10, spec_accept_token_num=0, spec_draft_token_num=30),
        sglang("b", 1.7e9 + 3, spec_verify_ct=30, spec_accept_token_num=0, spec_draft_token_num=90),
    ]
    for hour, part in ((12, rows[:2]), (13, rows[2:])):
        jsonl(tmp_path / "metrics" / f"sglang-request-metrics-20261129_{hour}.log", *part)
    table = import_trace(tmp_path / "metrics")
    assert note(table)["format"] == "sglang"
    assert columns(table, "step", "sample", "arrival_s", "cached_tokens", "finish_reason") == [
        [0] * 5, [0, 1, 0, 1, 2], [0.0, 2.0, 1.0, 3.0, 3.0], [4] * 5, ["length"] * 5
    ]  # fmt: skip
    # a 0 that was never counted is missing; one with as many steps as tokens is a 0
    assert columns(table, "spec_accepted_tokens", "spec_drafted_tokens") == [
        [19, 18, 17, None, 0],
        [30, 30, 30, 30, 90],
    ]


def test_answers_of_sglang_with_ids_and_log_probabilities(tmp_path):
    meta = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "finish_reason": {"type": "stop", "matched": 2},
        "e2e_latency": 0.5,
    }
    plain = {"text": "x", "output_ids": [5, 6], "meta_info": meta}
    table = import_trace(jsonl(tmp_path / "answers.jsonl", plain, plain))
    assert columns(table, "token_ids", "prompt_id") == [[[5, 6]] * 2, ["request-0", "request-1"]]
    scored = {"text": "x", "meta_info": meta | {"output_token_logprobs": [[-0.5, 5, "a"], [-0.25, 6, None]]}}
    table = import_trace(jsonl(tmp_path / "answers.jsonl", scored))
    assert columns(table, "token_ids", "logprobs") == [[[5, 6]], [[-0.5, -0.25]]]
    mixed = import_trace(jsonl(tmp_path / "answers.jsonl", plain, {"meta_info": meta}))
    assert "token_ids is left out, which some rows are without" in note(mixed)["assumed"]


SAMPLES = {
    "bench": VLLM_BENCH,
    "openai": batch("p-0", body(chat("w1 w2", token_ids=[1, 2]), metrics={"speculative_decoding": SPECULATED})),
    "sglang": sglang("a", 1.7e9, spec_verify_ct=10, spec_num_correct_drafts=19, output_token_logprobs=[[-0.5, 1, "x"]]),
    "mooncake": {"timestamp": 500, "input_length": 3520, "output_length": 177, "hash_ids": [0, 1, 2]},
}
