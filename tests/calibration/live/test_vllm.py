"""Runs on vLLM itself, on this machine: what is recorded, that nothing is lost, and that the simulator steps as vLLM does."""

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from calibration.live import recording, steps
from calibration.live.recording import Recorded
from calibration.rl.policy import Shape, Weights, empty_cache, next_logits
from calibration.rl.vocabulary import END_ID
from tests.calibration.live import live_engine
from tests.calibration.live.live_engine import MODEL, NGRAM, command, environment, killed_once_there, needs_vllm


def weights_of(folder: Path) -> Weights:
    """The policy's weights out of a saved model: `hugging_face.named` the other way round."""
    found = load_file(folder / "model.safetensors")
    layers = Shape().layers

    def transposed(name: str) -> torch.Tensor:
        return found[f"{name}.weight"].T.contiguous()

    weights = {"embedding": found["model.embed_tokens.weight"], "head": transposed("lm_head"),
               "norm": found["model.norm.weight"] + 1}  # fmt: skip
    for i in range(layers):
        here = f"model.layers.{i}"
        weights |= {
            f"{i}.qkv": torch.cat([transposed(f"{here}.self_attn.{one}_proj") for one in "qkv"], 1),
            f"{i}.out": transposed(f"{here}.self_attn.o_proj"),
            f"{i}.up": transposed(f"{here}.mlp.up_proj"),
            f"{i}.down": transposed(f"{here}.mlp.down_proj"),
            f"{i}.norm_attention": found[f"{here}.input_layernorm.weight"] + 1,
            f"{i}.norm_hidden": found[f"{here}.post_attention_layernorm.weight"] + 1,
        }
    return weights


def greedy(weights: Weights, prompt: list[int], most: int) -> list[int]:
    """The likeliest continuation, token by token."""
    cache, tokens = empty_cache(Shape(), 1, len(prompt) + most), list(prompt)
    with torch.inference_mode():
        for at in range(len(prompt) + most - 1):
            found = next_logits(weights, Shape(), torch.tensor([tokens[at]]), cache)
            if at + 1 == len(tokens):
                tokens.append(int(found.argmax()))
                if tokens[-1] == END_ID:
                    break
    return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recorded]:
    """Greedy runs with and without n-gram drafts, recorded by a process that is killed once on the way."""
    needs_vllm()
    out = tmp_path_factory.mktemp("live") / "R"
    asked = command(
        out, "--temperature", "0", "--rollouts", "40", "--speculative-config", "none", "--speculative-config", NGRAM
    )
    first = out / "none-at-8.0.steps.parquet"
    written_ns = killed_once_there(asked, first)
    again = subprocess.run(asked, env=environment(), stderr=subprocess.PIPE, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert first.stat().st_mtime_ns == written_ns, "a run that is done is not run again"
    assert "starting vLLM: none" not in again.stderr
    return {run.name: run for run in recording.read(out)}


def test_a_killed_recording_goes_on(runs: dict[str, Recorded]) -> None:
    assert sorted(runs) == ["ngram-4", "none"]
    for run in runs.values():
        assert len(run.trace) == 40
        assert run.steps.column("end_s").to_numpy().max() <= run.about["seconds"]


def test_an_interrupted_recording_ends_in_a_line_and_its_engine_with_it(tmp_path: Path) -> None:
    needs_vllm()
    asked, log = command(tmp_path / "R", "--speculative-config", "none"), tmp_path / "R" / "none.log"
    with subprocess.Popen(asked, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while not (log.exists() and log.stat().st_size):  # the engine is there, and loads
            assert process.poll() is None
            time.sleep(0.02)
        (engine,) = live_engine.children(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.read().splitlines() == ["starting vLLM: none", "error: interrupted"]
    assert process.returncode == 128 + signal.SIGINT
    assert not Path(f"/proc/{engine}").exists()


def test_the_model_is_the_policy(runs: dict[str, Recorded]) -> None:
    weights, table = weights_of(MODEL), runs["none"].trace.table
    for row in (0, 8, 16):
        prompt = table.column("prompt_token_ids")[row].as_py()
        assert table.column("token_ids")[row].as_py() == greedy(weights, prompt, 160)


def test_speculation_changes_no_token(runs: dict[str, Recorded]) -> None:
    assert runs["none"].trace.table.column("token_ids") == runs["ngram-4"].trace.table.column("token_ids")
    assert runs["ngram-4"].steps.num_rows < runs["none"].steps.num_rows


def test_the_time_to_draft_is_part_of_a_steps(runs: dict[str, Recorded]) -> None:
    assert not runs["none"].steps.column("drafting_s").to_numpy().any()
    start_s, end_s, drafting_s = (
        runs["ngram-4"].steps.column(name).to_numpy() for name in ("start_s", "end_s", "drafting_s")
    )
    assert (drafting_s > 0).all()
    assert (drafting_s < end_s - start_s).all()


@pytest.mark.parametrize("name", ["none", "ngram-4"])
def test_the_simulator_steps_as_vllm(runs: dict[str, Recorded], name: str) -> None:
    found = steps.compare(runs[name])
    assert found.first_difference is None, f"{found.measured.row(found.first_difference or 0)}"
    assert found.equal_fraction == 1.0
    assert found.measured.columns["emitted"].sum() == runs[name].trace.output_tokens.sum()


def test_sampling_with_drafts_is_sound(tmp_path: Path) -> None:
    # A draft is accepted if and only if it is the token that is emitted there; vLLM's own CPU code has it otherwise.
    needs_vllm()
    asked = command(tmp_path / "R", "--rollouts", "24", "--speculative-config", NGRAM)
    subprocess.run(asked, env=environment(), check=True, stderr=subprocess.DEVNULL)
    (run,) = recording.read(tmp_path / "R")
    found = steps.compare(run)
    assert found.first_difference is None
    assert run.about["mended"] == ["expand_batch_to_tokens"]
    accepted = found.measured.columns["accepted"].sum() / found.measured.columns["drafted"].sum()
    assert 0.1 < accepted < 0.9
    assert np.unique(run.trace.output_tokens).size > 8, "samples of a prompt differ"


def test_an_engine_that_does_not_start_says_why_in_one_line(tmp_path: Path) -> None:
    needs_vllm()
    for number, (extra, told) in enumerate((
        (["--engine", "no_such_option=1"], "no_such_option"),
        (["--speculative-config", json.dumps({"method": "nope", "num_speculative_tokens": 2})], "nope"),
    )):  # fmt: skip
        asked = command(tmp_path / str(number), "--speculative-config", "none", *extra, "--rollouts", "2")
        if "nope" in told:
            asked.remove("none")
            asked.remove("--speculative-config")
        done = subprocess.run(asked, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 3
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert told in last
        assert "Traceback" not in done.stderr
