"""`rolloutsim validate`, with an engine that answers what the test wants: tables, files, exit codes and refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibration import replay_run
from tests.calibration.echo import echo
from tests.calibration.logs import BENCH, DEPLOYMENT, write_json, write_log
from tests.cli.conftest import PROFILE, Shell

FLAGS = ("--profile", PROFILE, "--model", "llama-3.1-8b")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put an engine in place that stretches the run by `stretch`, and records what it was given."""
    told: dict[str, Any] = {"stretch": 1.0, "outside_fraction": 0.0}

    def simulate_run(run, facts, profile, deployment, router):
        told.update(facts=facts, profile=profile, deployment=deployment, router=router)
        return echo(run, told["stretch"], outside_fraction=told["outside_fraction"])

    monkeypatch.setattr(replay_run, "simulate_run", simulate_run)
    return told


def test_table(shell: Callable[..., Shell], engine: dict[str, Any], tmp_path: Path) -> None:
    engine["stretch"] = 1.25
    result = shell("validate", write_log(tmp_path / "log"), *FLAGS)
    assert result.code == 0, result.err
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in result.out.splitlines() if line}
    assert rows["ttft_s", "mean"] == ["1.4167", "1.7708", "+25.00%"]  # TTFT 1, 1.25 and 2 s
    assert rows["tpot_s", "p99"] == ["1.495", "1.8687", "+25.00%"]  # TPOT 1 and 1.5 s
    assert rows["makespan_s", "mean"][:3] == ["4.5", "5.375", "+19.44%"]  # the last is queued at 1 s, and takes 3.5 s
    assert "max_num_seqs 8" in result.out
    assert "assumed   block_size, gpu_memory_utilization" in result.out
    assert "note: num_gpu_blocks is unknown, so KV has no limit" in result.out
    assert (engine["router"], engine["deployment"]) == ("round_robin", None)


def test_json_and_files_agree(shell: Callable[..., Shell], engine: dict[str, Any], tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", ticks=["1.0,10,1,1,1,5", "2.0,20,1,2,1,9", "5.0,10,1,1,0,5"])
    flags = ["--set", "num_gpu_blocks=2588", "--set", "async_scheduling=false", "--router", "least_loaded"]
    result = shell("validate", log, *FLAGS, *flags, "--json", "--out", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    document = json.loads(result.out)
    assert json.loads((tmp_path / "out" / "validation.json").read_text()) == document
    assert (tmp_path / "out" / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"validation.json", "validation.png"}
    assert document.keys() == {"schema_version", "run", "profile", "model", "deployment", "router", "settings", "assumed",
                               "requests", "outside_fraction", "errors", "warnings", "metrics"}  # fmt: skip
    assert (document["schema_version"], document["requests"], document["warnings"]) == (1, 3, [])
    assert document["run"] == {"path": str(log), "kind": "vLLM request log", "anchor": "queued"}
    assert document["profile"]["name"] == PROFILE
    expected = [
        (metric, stat) for metric in ("ttft_s", "tpot_s", "latency_s") for stat in ("mean", "p50", "p90", "p99")
    ]
    assert [(row["metric"], row["stat"]) for row in document["metrics"]] == [*expected, ("makespan_s", "mean")]
    assert all(row["error"] == pytest.approx(0.0, abs=1e-12) for row in document["metrics"])
    settings = document["settings"]
    assert (settings["num_gpu_blocks"], settings["async_scheduling"], settings["max_num_seqs"]) == (2588, False, 8)
    assert {"num_gpu_blocks", "async_scheduling"}.isdisjoint(document["assumed"])
    assert (engine["facts"].num_gpu_blocks, engine["router"]) == (2588, "least_loaded")


def test_outside_the_measured_range_everything_is_printed_and_the_exit_code_is_4(
    shell: Callable[..., Shell], engine: dict[str, Any], tmp_path: Path
) -> None:
    engine["outside_fraction"] = 0.25
    result = shell("validate", write_log(tmp_path / "log"), *FLAGS, "--json")
    assert result.code == 4
    document = json.loads(result.out)
    assert (len(document["metrics"]), document["outside_fraction"]) == (13, 0.25)
    assert "25.00% of the simulated time is in steps outside the range" in document["warnings"][-1]
    table = shell("validate", tmp_path / "log", *FLAGS)
    assert table.code == 4
    assert "makespan_s" in table.out
    assert "25.00% of the simulated time" in table.out


def test_kv_blocks_from_a_deployment(shell: Callable[..., Shell], engine: dict[str, Any], tmp_path: Path) -> None:
    config = write_json(tmp_path / "config.json", DEPLOYMENT)
    log = write_json(tmp_path / "result.json", BENCH)
    document = json.loads(shell("validate", log, *FLAGS, "--deployment", config, "--json").out)
    assert document["deployment"]["tensor_parallel_size"] == engine["deployment"].tensor_parallel_size == 2
    # 0.9 x 24 GiB less half of 8.03 B parameters of 2 bytes (norms on both), in blocks of 16 x 64 KiB
    assert document["settings"]["num_gpu_blocks"] == pytest.approx((0.9 * 24 * 2**30 - 8.0303e9) / 2**20, abs=3)
    assert document["assumed"][-1] == "num_gpu_blocks"
    assert any("is derived" in warning for warning in document["warnings"])
    assert any("times are the client's" in warning for warning in document["warnings"])


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--profile", "h100", "--model", "llama-3.1-8b"), 3, "did you mean"),
        (("--profile", PROFILE, "--model", "no-such-model"), 3, "no-such-model"),
        (("--profile", PROFILE), 2, "--model"),
        (("--model", "llama-3.1-8b"), 2, "--profile"),
        ((*FLAGS, "--set", "max_num_seqs"), 3, "is not KEY=VALUE"),
        ((*FLAGS, "--set", "max_num_sqs=4"), 3, "did you mean max_num_seqs?"),
        ((*FLAGS, "--deployment", "absent.json"), 3, "absent.json"),
        ((*FLAGS, "--router", "random"), 2, "round_robin"),
        ((*FLAGS, "--out", "LOG/meta.json"), 3, "give --out a folder"),
    ],
)
def test_refusals(
    shell: Callable[..., Shell], engine: dict[str, Any], tmp_path: Path, flags: tuple[str, ...], code: int, words: str
) -> None:
    log = write_log(tmp_path / "log")
    result = shell("validate", log, *(flag.replace("LOG", str(log)) for flag in flags))
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert len(result.err.splitlines()) == 1
    assert "facts" not in engine


def test_a_bad_log_is_one_line(shell: Callable[..., Shell], engine: dict[str, Any], tmp_path: Path) -> None:
    (write_log(tmp_path / "log") / "requests.jsonl").write_text("{]\n")
    result = shell("validate", tmp_path / "log", *FLAGS, "--json")
    assert (result.code, result.out) == (3, "")
    assert "requests.jsonl: line 1: is not JSON" in result.err
