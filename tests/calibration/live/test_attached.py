"""Attaching to a server: what it tells of itself, what is refused in one line, and how answers are read."""

import json
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from calibration.live.attached import facts_of, resolved
from calibration.live.recording import Asked
from calibration.live.server import Answer, RefusedError, Server, read_answer
from simulator.cli import cli
from tests.calibration.live.live_engine import NGRAM, TRACE
from traces.errors import InputError
from traces.io import read

ANSWERS = Path(__file__).with_name("answers")
"""What vLLM 0.32.0 on a CPU answered (VLLM_SERVER_DEV_MODE=1): the files are its paths, server_info and metrics in part."""
MODEL = "calibration/models/countdown"
CONFIG = json.loads(NGRAM)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class Locked(Quiet):
    """Serves what needs no key."""

    def do_GET(self) -> None:
        """As vLLM guards its API."""
        if self.path.startswith("/v1"):
            self.send_error(401)
        else:
            super().do_GET()


@contextmanager
def serving(files: Path, handler: type[Quiet] = Quiet) -> Iterator[str]:
    """A web server that has vLLM's answers, and takes no requests for completions."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(files))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ANSWERS, tmp_path / "answers"))


@pytest.fixture
def url(files: Path) -> Iterator[str]:
    with serving(files) as url:
        yield url


def asked(config: dict[str, Any] | None = CONFIG, model: str = MODEL, **engine: Any) -> Asked:
    return Asked(read(TRACE), [0], {"any": config}, {"model": model, **engine}, {}, [4], 1, "", attached=True)


def told(url: str, tmp_path: Path, *more: str, config: str = NGRAM, model: str = MODEL) -> str:
    """The one line that `calibrate vllm --attach` ends with."""
    out = tmp_path / "R"
    arguments = ["calibrate", "vllm", str(TRACE), "--rollouts", "2", "--slots", "4", "--attach", url, "--model", model,
                 "--speculative-config", config, "--out", str(out), *more]  # fmt: skip
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code != 0
    assert not list(out.glob("*.parquet"))
    line = str(result.exception) if isinstance(result.exception, InputError) else result.output.strip().splitlines()[-1]
    assert "\n" not in line
    return line


def test_a_server_in_dev_mode_tells_all(url: str) -> None:
    facts = facts_of(Server(url + "/v1/"), asked())
    assert facts["server"] == {"url": url, "model": MODEL, "max_num_seqs": 8}
    settings = facts["settings"]
    assert (settings["max_num_batched_tokens"], settings["block_size"], settings["num_gpu_blocks"]) == (2048, 32, 16384)
    assert (settings["enable_prefix_caching"], settings["async_scheduling"]) == (True, False)
    assert (settings["max_model_len"], settings["vllm_version"], settings["dtype"]) == (1032, "0.32.0", "float32")
    assert facts["speculative"] == {key: resolved(CONFIG)[key] for key in facts["speculative"]}  # type: ignore[index]


def test_a_schedule_by_batch_size_is_kept(url: str, files: Path) -> None:
    info = json.loads((files / "server_info").read_text())
    info["vllm_config"]["speculative_config"]["num_speculative_tokens_per_batch_size"] = [[1, 8, 4], [9, 64, 0]]
    (files / "server_info").write_text(json.dumps(info))
    facts = facts_of(Server(url), asked())
    assert facts["speculative"]["num_speculative_tokens_per_batch_size"] == [[1, 8, 4], [9, 64, 0]]


def test_without_it_the_command_line_tells_the_rest(url: str, files: Path) -> None:
    (files / "server_info").unlink()
    rest = {"max_num_seqs": 6, "max_num_batched_tokens": 512, "async_scheduling": False, "enforce_eager": True}
    settings = facts_of(Server(url), asked(**rest))["settings"]
    assert {
        name: settings[name] for name in ("max_num_seqs", "max_num_batched_tokens", "async_scheduling")
    }.items() <= rest.items()
    assert (settings["block_size"], settings["num_gpu_blocks"], settings["cudagraph_capture_sizes"]) == (32, 16384, ())
    with pytest.raises(InputError, match=r"does not say max_num_batched_tokens, async_scheduling: give --engine"):
        facts_of(Server(url), asked(max_num_seqs=6))


def test_settings_that_the_server_contradicts_are_refused(url: str, files: Path, tmp_path: Path) -> None:
    assert "--engine block_size=16: the server has 32" in told(url, tmp_path, "--engine", "block_size=16")
    assert "--engine bloc_size: is no setting" in told(url, tmp_path, "--engine", "bloc_size=16")
    assert "runs at most 8 sequences, fewer than --slots 9" in told(url, tmp_path, "--slots", "9")
    assert "drafts some tokens, other than was said: give its --speculative-config" in told(
        url, tmp_path, config="none"
    )
    info = json.loads((files / "server_info").read_text())
    info["vllm_config"]["parallel_config"]["data_parallel_size"] = 2
    (files / "server_info").write_text(json.dumps(info))
    assert "is 2 engines, whose slots are their own" in told(url, tmp_path)
    shutil.copy(ANSWERS / "server_info", files)
    other = json.dumps(CONFIG | {"prompt_lookup_max": 5})
    assert "its speculative_config has prompt_lookup_max 4, not 5" in told(url, tmp_path, config=other)
    metrics = (files / "metrics").read_text().splitlines(keepends=True)
    (files / "metrics").write_text("".join(line for line in metrics if "cache_config" not in line))
    info = json.loads((files / "server_info").read_text())
    del info["vllm_config"]["cache_config"]
    (files / "server_info").write_text(json.dumps(info))
    assert "does not say block_size, num_gpu_blocks, enable_prefix_caching" in told(url, tmp_path)
    (files / "metrics").write_text("".join(line for line in metrics if "spec_decode" not in line))
    assert "drafts no tokens, other than was said: give --speculative-config none" in told(url, tmp_path)
    (files / "metrics").unlink()
    assert "serves no /metrics" in told(url, tmp_path)


def test_what_is_no_server_of_the_model_is_refused_in_one_line(url: str, files: Path, tmp_path: Path) -> None:
    assert "refuses a prompt of token ids (501: " in told(url, tmp_path), "as the web server says to a POST"
    assert f"serves no model 'other': give --model {MODEL}" in told(url, tmp_path, model="other")
    (files / "v1" / "models").unlink()
    assert "serves no /v1/models: give the address" in told(url, tmp_path)
    (files / "version").unlink()
    assert "is no vLLM server (it serves no /version)" in told(url, tmp_path)
    assert "--attach 'ftp://x': is no address" in told("ftp://x", tmp_path)
    assert "--attach 'http://x:y': is no address" in told("http://x:y", tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert f"http://127.0.0.1:{port}: cannot be reached (Connection refused)" in told(
            f"http://127.0.0.1:{port}", tmp_path
        )


def test_a_server_that_asks_for_a_key_is_refused(files: Path, tmp_path: Path) -> None:
    with serving(files, Locked) as url:
        assert "asks for a key, and none is sent" in told(url, tmp_path)


def test_flags_that_attaching_silences_are_refused(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1"
    assert "--python: does not go with --attach" in told(url, tmp_path, "--python", sys.executable)
    assert "--one-at-a-time: does not go with --attach" in told(url, tmp_path, "--one-at-a-time")
    assert "--speculative-config: a server has one" in told(url, tmp_path, "--speculative-config", "none")


def part(token_ids: list[int] | None, finish_reason: str | None = None) -> bytes:
    return json.dumps(
        {"choices": [{"index": 0, "text": "", "finish_reason": finish_reason, "token_ids": token_ids}]}
    ).encode()


USAGE = b'{"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 3}}'


def test_an_answer_is_dated_part_by_part() -> None:
    lines = [part([5]), part([]), part([6, 36], "stop"), USAGE, b"[DONE]\n"]
    answer = read_answer(Answer(0.5, [1.0, 2.0, 3.0, 4.0, 5.0]), lines)
    assert (answer.token_ids, answer.chunk_s, answer.chunks) == ([5, 6, 36], [1.0, 3.0], [[5], [6, 36]])
    assert (answer.finish_reason, answer.finished_s, answer.usage["completion_tokens"]) == ("stop", 5.0, 3)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([part([5]), part([6])], "the answer broke off, after 2 tokens"),
        ([part([5], "stop")], "the answer broke off, after 1 tokens"),
        ([part(None)], "have no token_ids"),
        (
            [
                part([5]),
                b'{"error": {"message": "EngineCore encountered an issue. See stack trace (above).", "code": 500}}',
            ],
            r"^EngineCore encountered an issue. See stack trace \(above\), after 1 tokens$",
        ),
        ([b"{]"], "not JSON"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused(lines: list[bytes], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        read_answer(Answer(0.0, [float(i) for i in range(len(lines))]), lines)


def test_a_configuration_is_completed_as_vllm_does() -> None:
    assert resolved(None) is None
    alone = resolved({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4})
    assert alone is not None
    assert (alone["prompt_lookup_min"], alone["prompt_lookup_max"], alone["num_speculative_tokens"]) == (4, 4, 3)
    neither = resolved({"method": "ngram", "num_speculative_tokens": 3})
    assert neither is not None
    assert (neither["prompt_lookup_min"], neither["prompt_lookup_max"]) == (5, 5)
    suffix = resolved({"method": "suffix", "suffix_decoding_max_tree_depth": 12})
    assert suffix is not None
    assert (suffix["num_speculative_tokens"], suffix["suffix_decoding_min_token_prob"]) == (12, 0.1)
