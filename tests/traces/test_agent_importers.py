"""Dumps of frameworks that train agents.

Files are laid out as these write them: verifiers 0.4.0 `write_episode`, and `save_outputs` before 0.2; AReaL 1.0.4
`WorkflowExecutor._dump_trajectory` and `SessionRecord.to_dict`; skyrl 0.3.0 `dump_per_dataset_eval_results`; rLLM 0.3
`EpisodeLogger.log_episode`; lm-eval 0.4.13 `save_results_samples`.
"""

import gzip
import json

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from traces import io
from traces.errors import InputError
from traces.importers import import_trace


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer of the words w0 to w99, whose ids are their numbers."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(100)} | {"?": 100}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(path))
    return path


def jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def columns(table: pa.Table, *names):
    return [table.column(name).to_pylist() for name in names]


def note(table: pa.Table):
    return io.provenance(table)


def refused(path, **options):
    with pytest.raises(InputError) as refusal:
        import_trace(path, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# verifiers and prime-rl ----------------------------------------------------------------------------------------------


def node(parent, role, ids=(), mask=(), logprobs=(), sampled=False):
    found = {"semantic_parents": [], "message": {"role": role, "content": "x"}, "sampled": sampled, "timestamp": 1.0}
    found |= {"token_ids": list(ids), "mask": list(mask), "is_content": [], "logprobs": list(logprobs)}
    return found if parent is None else found | {"parent": parent}


def call(at, tokens, start, end, finish="stop", prompt=12, cached=0):
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "cached_input_tokens": cached}
    return {"node": at, "model": "m", "finish_reason": finish, "usage": usage, "time": {"start": start, "end": end}}


def one_trace(nodes, calls, agent="agent", rewards=None, ok=True):
    return {
        "version": 1, "id": "t", "verifiers": {"version": "0.4.0"}, "agent": {"config": {}, "name": agent, "trainable": True},
        "task": {"type": "Math", "data": {"idx": 0, "prompt": "q"}, "key": "task-7", "hash": "h"}, "nodes": nodes, "calls": calls,
        "rewards": {"correct": {"score": 1.0, "weight": 1.0}} if rewards is None else rewards, "ok": ok, "is_timeout": False,
        "errors": [], "is_completed": True,
    }  # fmt: skip


def episode(*traces, step=3):
    run = {
        "type": "train",
        "id": "r",
        "work": {"type": "train", "step": step, "policy": {"start": step - 1, "end": step}},
    }
    return {
        "id": "e",
        "env": {"id": "gsm8k"},
        "task": traces[0]["task"],
        "run": run,
        "ok": True,
        "traces": list(traces),
    }


TWO_TURNS = [
    node(None, "user", [1, 1, 1], [False] * 3),
    node(0, "assistant", [2, 10, 11], [False, True, True], [-0.1, -0.2], sampled=True),
    node(1, "tool", [3, 3], [False] * 2),
    node(2, "assistant", [2, 12, 13, 14], [False, True, True, True], [-0.3, -0.4, -0.5], sampled=True),
]
CALLS = [call(1, 2, 100.0, 101.0), call(3, 3, 103.5, 105.0, "length")]


def test_traces_of_verifiers_with_token_ids(tmp_path):
    rewards = {"correct": {"score": 1.0, "weight": 0.5}, "style": {"score": 2.0, "weight": 0.1}, "unscored": None}
    path = jsonl(tmp_path / "traces.jsonl", *[episode(one_trace(TWO_TURNS, CALLS, rewards=rewards))] * 2)
    table = import_trace(path)
    assert note(table)["format"] == "verifiers"
    step, prompt, sample, prompt_ids, ids, log_probs, reason, reward, policy, turns = columns(
        table, "step", "prompt_id", "sample", "prompt_token_ids", "token_ids", "logprobs", "finish_reason", "reward", "policy",
        "turns",
    )  # fmt: skip
    assert (step, prompt, sample) == ([3, 3], ["task-7"] * 2, [0, 1])
    assert prompt_ids[0] == [1, 1, 1, 2]  # the generation prompt too
    assert ids[0] == [10, 11, 12, 13, 14]
    assert log_probs[0] == pytest.approx([-0.1, -0.2, -0.3, -0.4, -0.5])
    assert (reason[0], reward[0], policy[0]) == ("length", pytest.approx(0.7), "m")
    assert turns[0] == [{"generated_tokens": 2, "wait_s": 2.5}, {"generated_tokens": 3, "wait_s": 0.0}]
    assert any("between turns" in sentence for sentence in note(table)["assumed"])


def test_traces_of_verifiers_by_the_counts_of_the_provider(tmp_path):
    nodes = [node(None, "user"), node(0, "assistant", sampled=True)]
    path = jsonl(tmp_path / "traces.jsonl", episode(one_trace(nodes, [call(1, 40, 1.0, 2.0, prompt=20, cached=16)])))
    table = import_trace(path)
    assert columns(table, "prompt_tokens", "output_tokens") == [[36], [40]]
    assert "token_ids" not in table.column_names


def test_a_trace_alone_on_a_line_takes_its_step_from_the_folder(tmp_path):
    path = jsonl(tmp_path / "rollouts" / "step_12" / "train_rollouts.jsonl", one_trace(TWO_TURNS, CALLS))
    assert columns(import_trace(path), "step") == [[12]]


def test_calls_off_the_path_and_other_agents_are_told(tmp_path):
    branched = [*TWO_TURNS[:2], node(0, "assistant", [2, 20], [False, True], [-1.0], sampled=True)]
    off = one_trace(branched, [call(1, 2, 1.0, 2.0), call(2, 1, 2.0, 3.0)])
    table = import_trace(
        jsonl(tmp_path / "traces.jsonl", episode(off, one_trace(TWO_TURNS, CALLS, agent="judge", ok=False)))
    )
    assert columns(table, "prompt_id", "token_ids", "finish_reason") == [
        ["task-7/agent", "task-7/judge"], [[20], [10, 11, 12, 13, 14]], ["stop", "aborted"]
    ]  # fmt: skip
    assert any("off the path" in sentence for sentence in note(table)["assumed"])


def test_traces_that_cannot_be_read(tmp_path):
    def path(*nodes, calls=()):
        return jsonl(tmp_path / "traces.jsonl", episode(one_trace(list(nodes), list(calls))))

    assert "line 1, node 0: has parent 3" in refused(path(node(3, "user")))
    assert "0 output tokens" in refused(path(node(None, "user")))
    broken = episode(one_trace([], []))
    del broken["traces"][0]["nodes"]
    assert "a trace has no nodes" in refused(jsonl(tmp_path / "traces.jsonl", broken))


def result(**others):
    return {
        "example_id": 4, "prompt": [{"role": "user", "content": "w1 w2 w3"}],
        "completion": [{"role": "assistant", "content": "w4 w5", "tool_calls": None}], "task": "default", "reward": 0.5,
        "error": None, "is_truncated": False, "turns": 1.0, "correct_answer": 1.0,
        "token_usage": {"input_tokens": 9.0, "output_tokens": 2.0},
    } | others  # fmt: skip


TOOLS = [
    {"role": "assistant", "content": "w4"},
    {"role": "tool", "content": "w9 w9"},
    {"role": "assistant", "content": "w5 w6"},
]


def test_results_of_verifiers_whose_turns_are_another_thing(tmp_path, words):
    path = jsonl(tmp_path / "results.jsonl", result(), result(is_truncated=True))
    table = import_trace(path)
    assert columns(table, "prompt_id", "sample", "prompt_tokens", "output_tokens", "finish_reason", "correct_answer") == [
        ["4", "4"], [0, 1], [9, 9], [2, 2], ["stop", "length"], [1.0, 1.0]
    ]  # fmt: skip
    assert "turns" in note(table)["ignored_columns"]
    assert columns(import_trace(path, tokenizer=words), "prompt_token_ids", "token_ids") == [
        [[1, 2, 3]] * 2,
        [[4, 5]] * 2,
    ]
    counted = result(prompt_tokens=13.0, completion_tokens=7.0, completion=TOOLS)
    assert columns(import_trace(jsonl(path, counted)), "prompt_tokens", "output_tokens") == [[13], [7]]
    several = jsonl(path, result(completion=TOOLS))
    assert "prompt tokens of the first turn" in refused(several)
    assert columns(import_trace(several, tokenizer=words), "token_ids") == [[[4, 5, 6]]]
    text = jsonl(path, result(prompt="w1", completion="w2 w3"))
    assert columns(import_trace(text, tokenizer=words), "prompt_token_ids", "token_ids") == [[[1]], [[2, 3]]]


# AReaL ---------------------------------------------------------------------------------------------------------------


def areal(task, sample, prompt, output, head=5, tail=5):
    return {
        "task_id": task, "sample_idx": sample, "seqlen": len(prompt.split()) + len(output.split()),
        "prompt_len": len(prompt.split()), "head_version": head, "tail_version": tail, "reward": float(sample), "prompt": prompt,
        "completion": output,
    }  # fmt: skip


def session(task, number, generate_s, **others):
    return {
        "task_id": task, "session_id": number, "rank": 0, "role": "rollout", "status": "accepted", "submit_ts": 1.0,
        "finalized_ts": 9.0, "total_s": 8.0, "generate_s": generate_s, "reward_s": 0.25,
        "phases": {"generate": [{"start_ts": 1.0, "end_ts": 1.0 + generate_s}]},
    } | others  # fmt: skip


def test_rollouts_of_areal(tmp_path, words):
    folder = tmp_path / "logs" / "exp" / "trial"
    jsonl(folder / "rollout" / "5" / "3.jsonl", areal(3, 0, "w1 w2", "w3 w4 w5"), areal(3, 1, "w1 w2", "w3", 4))
    jsonl(folder / "rollout" / "6" / "11.jsonl", areal(11, 0, "w7", "w8 w9", 6, 6))
    table = import_trace(folder / "rollout")
    assert columns(table, "step", "sample", "prompt_tokens", "output_tokens", "reward", "policy") == [
        [5, 5, 6], [0, 1, 0], [2, 2, 1], [3, 1, 2], [0.0, 1.0, 0.0], ["5", "4 to 5", "6"]
    ]  # fmt: skip
    assert len(set(table.column("prompt_id").to_pylist())) == 2
    table = import_trace(folder / "rollout", tokenizer=words)
    assert columns(table, "prompt_token_ids", "token_ids")[1] == [[3, 4, 5], [3], [8, 9]]


def test_sessions_of_areal_lend_their_times(tmp_path):
    folder = tmp_path / "logs" / "exp" / "trial"
    jsonl(folder / "rollout" / "5" / "3.jsonl", areal(3, 0, "w1", "w3"), areal(3, 1, "w1", "w3"))
    sessions = jsonl(
        folder / "session_tracer" / "rollout" / "sessions-r0.jsonl",
        session(3, 11, 4.0), session(3, 2, 2.0), session(3, 1, 9.0, status="rejected"),
    )  # fmt: skip
    for path in (folder, folder / "rollout"):
        table = import_trace(path)
        assert columns(table, "generate_s", "reward_s") == [[2.0, 4.0], [0.25, 0.25]]
        assert any("AReaL's sessions" in sentence for sentence in note(table)["assumed"])
    assert "holds the times of AReaL's sessions, and no lengths: import the rollout folder" in refused(sessions)


# SkyRL, rLLM, lm-eval ------------------------------------------------------------------------------------------------


def skyrl(prompt, output, score, stop="stop"):
    return {
        "input_prompt": prompt, "output_response": output, "score": score, "stop_reason": stop, "env_class": "gsm8k",
        "env_extras": {}, "data_source": "openai/gsm8k",
    }  # fmt: skip


def test_evaluations_of_skyrl(tmp_path, words):
    folder = tmp_path / "dumped_evals" / "global_step_20_evals"
    rows = skyrl("w1 w2", "w3", [0.0, 0.5, 0.25]), skyrl("w1 w2", "w4 w5", 1.0, "length")
    jsonl(folder / "openai_gsm8k.jsonl", *rows)
    jsonl(folder / "aggregated_results.jsonl", {"eval/all/avg_score": 0.5, "eval/all/pass_at_1": 0.5})
    table = import_trace(folder, tokenizer=words)
    assert columns(table, "step", "sample", "token_ids", "reward", "finish_reason") == [
        [20, 20], [0, 1], [[3], [4, 5]], [0.75, 1.0], ["stop", "length"]
    ]  # fmt: skip
    assert "left out, as they hold no rollouts: aggregated_results.jsonl" in note(table)["assumed"]
    assert "give the model's tokenizer.json" in refused(folder)
    assert "means over an evaluation" in refused(folder / "aggregated_results.jsonl")


def rllm(steps, name="solver", reward=1.0, **others):
    trajectory = {"name": name, "uid": "u", "reward": reward, "num_steps": len(steps), "timing": {}, "steps": steps}
    return {
        "training_step": 7, "epoch": 1, "episode_id": "a:0", "session_id": None, "task": {"question": "q"},
        "task_hash": "0123abcd", "is_correct": True, "termination_reason": "env_done", "metrics": {}, "metadata": {},
        "timing": {}, "trajectories": [trajectory],
    } | others  # fmt: skip


def rllm_step(prompt, response, **others):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return {"observation": None, "action": "x", "reward": 0.0, "done": True, "model_response": response} | {
        "chat_completions": messages,
        **others,
    }


def test_episodes_of_rllm(tmp_path, words):
    folder = tmp_path / "episodes" / "train_step_7_epoch_1"
    folder.mkdir(parents=True)
    turns = [rllm_step("w1 w2", "w3 w4"), rllm_step("w1 w2 w3 w4 w9", "w5")]
    for number in (0, 1):
        path = folder / f"episode_hash0123abcd_id{number}.json"
        path.write_text(json.dumps(rllm(turns, reward=float(number)), indent=2) + "\n")
    (folder / "batch_summary.json").write_text(json.dumps({"episode_files": [], "summary_stats": {}}, indent=2))
    table = import_trace(tmp_path / "episodes", tokenizer=words)
    assert columns(table, "step", "epoch", "prompt_id", "sample", "reward") == [
        [7, 7], [1, 1], ["0123abcd"] * 2, [0, 1], [0.0, 1.0]
    ]  # fmt: skip
    assert columns(table, "prompt_token_ids", "token_ids") == [[[1, 2]] * 2, [[3, 4, 5]] * 2]
    assert table.column("turns").to_pylist()[0] == [
        {"generated_tokens": 2, "wait_s": 0.0}, {"generated_tokens": 1, "wait_s": 0.0}
    ]  # fmt: skip
    assert "trajectory 0: holds text without token ids: give the model's tokenizer.json" in refused(path)
    recorded = [rllm_step("a", "b", prompt_ids=[5, 6], response_ids=[7])]
    path.write_text(json.dumps(rllm(recorded)))
    assert columns(import_trace(path), "prompt_token_ids", "token_ids") == [[[5, 6]], [[7]]]


def sample(doc, responses, kind="strict-match"):
    return {
        "doc_id": doc, "doc": {}, "target": "7", "arguments": {"gen_args_0": {"arg_0": f"w{doc}", "arg_1": {"until": []}}},
        "resps": [responses], "filtered_resps": ["7"], "filter": kind, "metrics": ["exact_match"], "exact_match": 1.0,
    }  # fmt: skip


def test_samples_of_lm_eval(tmp_path, words):
    rows = [sample(1, ["w2 w3", "w4"]), sample(1, ["w2 w3", "w4"], "flexible-extract"), sample(2, ["w5", "w6"])]
    table = import_trace(jsonl(tmp_path / "samples_gsm8k_2026.jsonl", *rows), tokenizer=words)
    assert columns(table, "sample", "token_ids", "exact_match") == [[0, 1, 0, 1], [[2, 3], [4], [5], [6]], [1.0] * 4]
    choices = jsonl(tmp_path / "samples_arc.jsonl", sample(1, []) | {"resps": [[[-1.5, False]]]})
    assert "resps hold no text: only tasks that generate" in refused(choices, tokenizer=words)


def test_an_export_of_weights_and_biases_is_named_for_what_it_is(tmp_path):
    path = tmp_path / "wandb_export.csv"
    path.write_text("Step,run - response_length/mean,run - response_length/mean__MIN\n0,700,700\n")
    assert "an export of Weights & Biases, which has means of a step and no rollouts" in refused(path)


# All of them ---------------------------------------------------------------------------------------------------------

SAMPLES = {
    "verifiers": episode(one_trace(TWO_TURNS, CALLS)),
    "verifiers-results": result(),
    "areal": areal(3, 0, "w1 w2", "w3"),
    "skyrl": skyrl("w1", "w2", [0.5]),
    "rllm": rllm([rllm_step("w1", "w2")]),
    "lm-eval": sample(1, ["w2"]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_packed_file_is_recognised(tmp_path, words, name):
    path = tmp_path / ("dump.json.gz" if name == "rllm" else "dump.jsonl.gz")
    path.write_bytes(gzip.compress(json.dumps(SAMPLES[name]).encode() + b"\n"))
    options = {} if name == "verifiers" else {"tokenizer": words}
    assert note(import_trace(path, **options))["format"] == name
