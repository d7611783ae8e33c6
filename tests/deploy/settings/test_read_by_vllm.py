"""Settings as vLLM itself reads them: its own parser of flags and its own configuration classes, in its own environment."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.deploy.settings import EngineSettings
from tests.calibration.live.live_engine import MODEL, PYTHON, environment, needs_vllm
from tests.deploy.settings.choices import HEAD, OWN_SUFFIX, settings

RELEASE = "vllm==0.32"
NGRAM = {"kind": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4}
LIMITS = {
    "max_num_seqs": 32, "max_num_batched_tokens": 2048, "max_model_len": 1024, "enable_prefix_caching": True,
    "enable_chunked_prefill": True, "block_size": 32, "num_gpu_blocks": 200,
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 37,
    "max_position_embeddings": 1032, "torch_dtype": "float32",
}  # fmt: skip
GLM = LLAMA | {
    "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "num_nextn_predict_layers": 1, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 64, "head_dim": 32, "num_hidden_layers": 2,
}  # fmt: skip
"""One that has MTP layers of its own."""

MADE = {
    "none": lambda head: settings(RELEASE, "none", NGRAM),
    "limits": lambda head: settings(RELEASE, "none", NGRAM, limits=LIMITS),
    "ngram": lambda head: settings(RELEASE, "fixed:4", NGRAM, limits=LIMITS),
    "schedule": lambda head: settings(RELEASE, "threshold:4@8", NGRAM, limits=LIMITS),
    "suffix": lambda head: settings(RELEASE, "fixed:8", OWN_SUFFIX),
    "request": lambda head: settings(RELEASE, "unlimited", {"kind": "suffix", "scope": "request", "match": "scored"}),
    "das": lambda head: settings(RELEASE, "das", {"kind": "suffix", "window": 4}, history="h.parquet", profile="p"),
    "draft_model": lambda head: settings(RELEASE, "threshold:3@8", {"kind": "draft_model"} | HEAD, draft_model=head),
    "eagle": lambda head: settings(RELEASE, "fixed:3", {"kind": "eagle"} | HEAD, draft_model=head),
    "eagle3": lambda head: settings(RELEASE, "threshold:3@8", {"kind": "eagle3"} | HEAD, draft_model=head),
    "mtp": lambda head: settings(RELEASE, "fixed:2", {"kind": "mtp"} | HEAD, model=str(Path(head).parent / "glm")),
}  # fmt: skip
WRONG = {
    "a key that is gone": '{"method": "ngram", "num_speculative_tokens": 4, "disable_by_batch_size": 32}',
    "a method that is none": '{"method": "das", "num_speculative_tokens": 4}',
    "no draft": '{"method": "ngram", "num_speculative_tokens": 0}',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, config in (("head", LLAMA), ("glm", GLM)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, EngineSettings]:
    return {name: make(str(folder / "head")) for name, make in MADE.items()}


def words_of(one: EngineSettings) -> list[str]:
    _, _, model, *flags = one.command
    return ["--model", str(MODEL) if model == "org/model" else model, "--dtype", "float32", *flags]


@pytest.fixture(scope="module")
def read(made: dict[str, EngineSettings]) -> Callable[[str], dict[str, Any]]:
    """What vLLM says of each, asked once for all."""
    needs_vllm()
    ngram = made["ngram"]
    asked = {name: words_of(one) for name, one in made.items()} | {
        name: ["--model", str(MODEL), "--speculative-config", text] for name, text in WRONG.items()
    }  # fmt: skip
    asked["a flag that is none"] = [*words_of(ngram), "--speculative-budget-policy", "das"]
    asked["ranks"] = [*words_of(made["schedule"]), "--data-parallel-size", "2"]
    asked["async"] = [*words_of(ngram), "--async-scheduling"]
    reader = Path(__file__).with_name("vllm_reader.py")
    run = subprocess.run(
        [str(PYTHON), str(reader)], input=json.dumps(list(asked.values())), env=environment(), capture_output=True, text=True
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    answers = dict(zip(asked, json.loads(run.stdout.splitlines()[-1]), strict=True))
    return answers.__getitem__


@pytest.mark.parametrize("name", MADE)
def test_vllm_reads_what_was_meant(
    name: str, made: dict[str, EngineSettings], read: Callable[[str], dict[str, Any]]
) -> None:
    told = read(name)
    assert "error" not in told, told
    for key, value in made[name].config.items():
        if key == "speculative_config":
            assert {inner: told[key][inner] for inner in value} == value
        else:
            assert told[key] == value, key
    if "speculative_config" not in made[name].config:
        assert told["speculative_config"] is None


@pytest.mark.parametrize("name", [*WRONG, "a flag that is none"])
def test_what_is_wrong_vllm_refuses(name: str, read: Callable[[str], dict[str, Any]]) -> None:
    assert "error" in read(name)


def test_vllm_drops_a_schedule_on_ranks_as_is_said(read: Callable[[str], dict[str, Any]]) -> None:
    assert read("schedule")["speculative_config"]["num_speculative_tokens_per_batch_size"] == [[1, 8, 4], [9, 32, 0]]
    assert read("ranks")["speculative_config"]["num_speculative_tokens_per_batch_size"] is None


def test_vllm_schedules_no_step_ahead_as_is_said(read: Callable[[str], dict[str, Any]]) -> None:
    assert "async scheduling" in read("async")["error"].lower()
    for name in ("ngram", "suffix", "das"):
        assert read(name)["async_scheduling"] is False
