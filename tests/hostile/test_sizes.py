"""Files that declare more than there is, and what is no file: refused before anything is unpacked or read."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.engine import replica
from tests.cli.conftest import PROFILE, Shell
from traces import files, io

COUNTS = ("step", "sample", "prompt_tokens", "output_tokens")


def test_a_parquet_bomb_is_refused_by_what_it_declares(
    tmp_path: Path, shell: Callable[..., Shell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than a megabyte that stand for 200 million values, on a machine of half a gigabyte."""
    monkeypatch.setattr(files, "memory_bytes", lambda: 2**29)
    bomb = tmp_path / "bomb.parquet"
    with pq.ParquetWriter(bomb, pa.schema([("step", pa.int32())]), compression="zstd") as writer:
        for _ in range(20):
            writer.write_table(pa.table({"step": pa.repeat(pa.scalar(0, pa.int32()), 10_000_000)}))
    assert bomb.stat().st_size < 1_000_000
    done = shell("trace", "describe", bomb)
    assert done.code == 3
    assert "unpacks to 0.8 GB" in done.err


@pytest.mark.parametrize("command", ["trace", "replay", "run", "profile", "system"])
def test_pipes_and_devices_are_no_files(command: str, small: Path, tmp_path: Path, shell: Callable[..., Shell]) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        on = ("--profile", PROFILE, "--policy", "none", "--steps", "2")
        done = {
            "trace": lambda: shell("trace", "describe", path),  # noqa: B023
            "replay": lambda: shell("replay", path, *on),  # noqa: B023
            "run": lambda: shell("run", path),  # noqa: B023
            "profile": lambda: shell("replay", small, "--profile", path, "--policy", "none"),  # noqa: B023
            "system": lambda: shell("replay", small, *on, "--system", path),  # noqa: B023
        }[command]()
        assert done.code == 3
        assert done.err.count("\n") == 1
        assert "is a device or pipe" in done.err


def test_costs_have_an_end(small: Path, tmp_path: Path, shell: Callable[..., Shell]) -> None:
    """Of 1e308 s a step the clock would be infinite after two, and nothing would come after anything."""
    profile = tmp_path / "dear.yaml"
    words = "format: rolloutsim.profile/1\nname: x\nkind: affine\nmodel: m\ndevice: d\nsource: s\nuncertainty: u\n"
    profile.write_text(words + "operators:\n- {name: a, kind: affine, coefficients_s: {constant: 1.0e+308}}\n")
    done = shell("replay", small, "--profile", profile, "--policy", "none")
    assert done.code == 3
    assert "constant = 1e+308: a cost is at most 1e+09 seconds" in done.err


def test_what_is_no_number_in_json_is_none_in_provenance(
    small: Path, tmp_path: Path, shell: Callable[..., Shell]
) -> None:
    table = io.read(small).table
    path = tmp_path / "nan.parquet"
    pq.write_table(table.replace_schema_metadata({b"rolloutsim": b'{"error": NaN}'}), path)
    done = shell("trace", "describe", path, "--json")
    assert (done.code, done.out) == (3, "")
    assert "metadata 'rolloutsim' is not a JSON object" in done.err


def test_a_rollout_of_as_many_tokens_as_a_trace_can_say_ends_in_a_line(
    tmp_path: Path, shell: Callable[..., Shell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thousand million decode steps, of which a machine of 20 MB keeps a million: no table of its tokens is made before."""
    monkeypatch.setattr(replica, "memory_bytes", lambda: 20_000_000)
    columns = {name: pa.array([2**31 - 1 if name == "output_tokens" else 0], pa.int32()) for name in COUNTS}
    pq.write_table(pa.table(columns | {"prompt_id": ["p"]}), tmp_path / "long.parquet")
    done = shell("replay", tmp_path / "long.parquet", "--profile", PROFILE, "--policy", "none", "--drafter", "none")
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "decode steps of one RL step take 0.0 GB" in done.err
    assert "simulate fewer RL steps" in done.err
