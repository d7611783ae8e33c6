"""Attached to a real vLLM server on this machine: what is recorded, what its counters say, and how it goes wrong."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from urllib.request import urlopen

import pyarrow as pa
import pytest

from calibration.live import recording
from calibration.live.recording import Recorded, Run
from calibration.live.server import RefusedError, Server
from calibration.runs.read import read_run
from tests.calibration.live.live_engine import (
    MODEL,
    NGRAM,
    PYTHON,
    ROOT,
    TRACE,
    environment,
    killed_once_there,
    needs_vllm,
)
from tests.calibration.live.test_times import both
from traces.io import read, write

ATTACHED = Path(__file__).with_name("attached")
SERVER = ["--skip-tokenizer-init", "--dtype", "float32", "--enforce-eager", "--block-size", "32", "--max-model-len", "1032",
          "--max-num-seqs", "8"]  # fmt: skip
UNTOLD = ("max_num_seqs=8", "max_num_batched_tokens=2048", "async_scheduling=false")
"""Settings of it that a server does not tell by itself."""
START_S = 600


class Served(NamedTuple):
    url: str
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests here, which drafts n-grams; the last of them ends it."""
    needs_vllm()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    asked = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, "--served-model-name", "countdown", *SERVER,
             "--speculative-config", NGRAM, "--host", "127.0.0.1", "--port", port]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(
            list(map(str, asked)), env=environment() | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}, stdout=out,
            stderr=out, start_new_session=True,
        )  # fmt: skip
    url, until_s = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    while not answers(url):
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < until_s, log.read_text()[-3000:]
        time.sleep(0.2)
    yield Served(url, process)
    end(process)


def answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/health") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def command(url: str, out: Path, *more: str, told: tuple[str, ...] = UNTOLD) -> list[str]:
    """A recording of that server."""
    settings = [word for setting in told for word in ("--engine", setting)]
    return [
        str(ROOT / ".venv" / "bin" / "rolloutsim"), "calibrate", "vllm", str(TRACE), "--step", "20", "--model", "countdown",
        "--attach", url, "--speculative-config", NGRAM, *settings, "--stop-token-id", "36", "--max-tokens", "160",
        "--temperature", "0", "--rollouts", "40", "--out", str(out), *more,
    ]  # fmt: skip


def refused(asked: list[str]) -> str:
    """The one line that a command ends with."""
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def runs(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs at 4 slots, where requests wait at the client, and at 8, where the server queues; killed once on the way."""
    out = tmp_path_factory.mktemp("attached") / "R"
    asked = command(served.url, out, "--slots", "4", "--slots", "8")
    first = Run("ngram-4", 4, 0).rows(out, True)
    written_ns = killed_once_there(asked, first)
    again = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "1 of 1: ngram-4 at 8" in again.stderr
    assert first.stat().st_mtime_ns == written_ns, "a run that is done is not run again"
    return out


@pytest.mark.parametrize("slots", [4, 8])
def test_a_server_emits_what_an_engine_does(runs: Path, slots: int) -> None:
    found, before = (recording.read_one(folder, Run("ngram-4", slots, 0)) for folder in (runs, ATTACHED))
    assert found.trace.table.column("token_ids") == before.trace.table.column("token_ids")
    assert found.trace.table.column("finish_reason") == before.trace.table.column("finish_reason")
    assert set(found.trace.table.column("finish_reason").to_pylist()) == {"stop", "length"}


@pytest.mark.parametrize("slots", [4, 8])
def test_its_counters_are_the_simulations(runs: Path, slots: int) -> None:
    run, simulated = both(Run("ngram-4", slots, 0).rollouts(runs))
    assert simulated.counts == run.counts == {"drafted": 1728, "accepted": 976, "preempted": 0}
    counters = recorded(runs, slots).about["counters"]
    accepted = [counters[f"vllm:spec_decode_num_accepted_tokens_per_pos[{i}]"] for i in range(4)]
    assert sum(accepted) == counters["vllm:spec_decode_num_accepted_tokens"]
    assert counters["vllm:generation_tokens"] == run.requests.output_tokens.sum()


def recorded(runs: Path, slots: int) -> Recorded:
    return recording.read_one(runs, Run("ngram-4", slots, 0))


def test_what_it_tells_of_itself_is_kept(runs: Path, served: Served) -> None:
    about = recorded(runs, 4).about
    settings = about["settings"]
    assert (settings["block_size"], settings["enable_prefix_caching"], settings["max_model_len"]) == (32, True, 1032)
    assert (settings["max_num_seqs"], about["server"]["max_num_seqs"], about["server"]["url"]) == (4, 8, served.url)
    assert settings["vllm_version"] == "0.32.0"
    assert about["speculative"]["prompt_lookup_max"] == 4


def test_requests_have_times_in_order(runs: Path) -> None:
    for slots in (4, 8):
        requests = read_run(Run("ngram-4", slots, 0).rollouts(runs)).requests
        assert (requests.first_token_s <= requests.last_token_s).all()
        assert (requests.first_token_s > 0).all()
        assert requests.last_token_s.max() <= recorded(runs, slots).about["seconds"]


def test_what_it_does_not_tell_must_be_said(served: Served, tmp_path: Path) -> None:
    asked = command(served.url, tmp_path / "R", "--slots", "4", told=UNTOLD[:1])
    assert "does not say max_num_batched_tokens, async_scheduling: give --engine" in refused(asked)
    assert "serves no model 'other': give --model countdown" in refused(
        [("other" if word == "countdown" else word) for word in command(served.url, tmp_path / "R")]
    )
    assert not (tmp_path / "R").exists()


def test_no_run_finds_the_prompts_of_another(served: Served, tmp_path: Path) -> None:
    # Prompts of 70 tokens hold two whole blocks of 32, which the samples of a prompt share.
    table = read(TRACE).table
    rows = [row for row, step in enumerate(table.column("step").to_pylist()) if step == 20][:40]
    table = table.take(rows).select(["step", "prompt_id", "sample", "output_tokens"])
    prompts = [[1 + int(name.encode().hex(), 16) % 30] * 70 for name in table.column("prompt_id").to_pylist()]
    table = table.append_column("prompt_token_ids", pa.array(prompts, pa.list_(pa.int32())))
    table = table.append_column("prompt_tokens", pa.array([70] * len(rows), pa.int32()))
    write(table, tmp_path / "long.parquet", {"made": "for tests"})
    asked = command(served.url, tmp_path / "R", "--slots", "8", "--repeats", "2", "--max-tokens", "4")
    asked[asked.index(str(TRACE))] = str(tmp_path / "long.parquet")
    subprocess.run(asked, check=True, stderr=subprocess.DEVNULL)
    hits = [run.about["counters"]["vllm:prefix_cache_hits"] for run in recording.read(tmp_path / "R")]
    assert hits == [64 * (len(rows) - len({tuple(prompt) for prompt in prompts}))] * 2


def test_a_run_beside_others_is_refused(served: Served, tmp_path: Path) -> None:
    other = Server(served.url)
    body = {"model": "countdown", "prompt": [1, 5, 6], "max_tokens": 1000, "ignore_eos": True}

    def asking() -> None:
        while not other.stop.is_set():
            try:
                other.complete(body)
            except RefusedError:
                return

    thread = Thread(target=asking)
    thread.start()
    try:
        assert "serves others, so that times are not of this run alone" in refused(
            command(served.url, tmp_path / "R", "--slots", "8")
        )
    finally:
        other.stop.set()
        thread.join()
    assert not list((tmp_path / "R").glob("*.parquet"))


def test_a_server_that_ends_midway_leaves_the_runs_that_were_done(served: Served, tmp_path: Path) -> None:
    out = tmp_path / "R"
    process = subprocess.Popen(
        command(served.url, out, "--slots", "8", "--repeats", "50"), stderr=subprocess.PIPE, text=True
    )
    while not Run("ngram-4", 8, 0).rows(out, True).exists():
        assert process.poll() is None
        time.sleep(0.02)
    end(served.process)
    _, told = process.communicate()
    assert process.returncode == 3
    last = told.strip().splitlines()[-1]
    assert last.startswith(f"error: {served.url}: ")
    assert "failed (" in last or "cannot be reached" in last
    assert "Traceback" not in told
    done = recording.runs_of(out)
    assert 1 <= len(done) < 50
    assert len(list(out.glob("*.parquet"))) == 2 * len(done)
    assert "cannot be reached (Connection refused): start the server" in refused(
        command(served.url, out, "--slots", "8")
    )
