"""Large traces: what is as long as rollouts lies in mapped files, and is the same as in memory."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traces import io
from traces.errors import InputError
from traces.io import read

RECORDED = Path("traces/data/countdown.parquet")


@pytest.fixture
def spills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trace counts as large."""
    monkeypatch.setattr(io, "SPILLED_FROM_BYTES", 0)


def made(lists: list[list[int] | None], kind: pa.DataType) -> pa.Table:
    """A trace of these responses; null where a rollout has none."""
    lengths = pa.array([len(one) if one else 2 for one in lists], pa.int32())
    zeros = pa.array([0] * len(lists), pa.int32())
    return pa.table({
        "step": zeros, "prompt_id": ["p"] * len(lists), "sample": pa.array(range(len(lists)), pa.int32()),
        "prompt_tokens": zeros, "output_tokens": lengths, "token_ids": pa.array(lists, kind),
    })  # fmt: skip


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    return str(caught.value)


def test_a_large_trace_is_the_same_outside_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = read(RECORDED)
    monkeypatch.setattr(io, "SPILLED_FROM_BYTES", 0)
    outside = read(RECORDED)
    assert not inside.maps
    assert outside.table.equals(inside.table, check_metadata=True)
    assert outside.sha256 == inside.sha256
    for name in ("tokens", "prompt_token_ids_flat"):
        mine, its = getattr(outside, name), getattr(inside, name)
        assert mine.tobytes() == its.tobytes()
        assert mine.flags.c_contiguous
        assert not mine.flags.writeable
    tokens = outside.tokens.copy()
    outside.release()
    assert (outside.tokens == tokens).all(), "read again"


@pytest.mark.usefixtures("spills")
@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.list_(pa.int64()), pa.large_list(pa.uint16())])
def test_any_width_is_brought_to_the_schemas(kind: pa.DataType, tmp_path: Path) -> None:
    lists = [[*range(i, 2 * i + 1)] for i in range(3000)]
    pq.write_table(made(lists, kind), tmp_path / "t.parquet", row_group_size=700)
    trace = read(tmp_path / "t.parquet")
    assert trace.table.schema.field("token_ids").type == pa.list_(pa.int32())
    assert trace.tokens.tolist() == [token for one in lists for token in one]
    assert trace.select(np.array([5, 2000])).tokens.tolist() == lists[5] + lists[2000]


@pytest.mark.usefixtures("spills")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2500: [1, 1 << 40]}, "row 2500, column 'token_ids': 1099511627776 does not fit int32"),
        ({2500: [1, None]}, "row 2500, column 'token_ids': null inside the list"),
        ({2500: None}, "row 2500, column 'token_ids': null where other rows have a value"),
        ({2500: [1, -7]}, "row 2500, column 'token_ids': -7 is a negative token id"),
    ],
)
def test_errors_name_the_row_of_the_file(change: dict[int, list[int]], message: str, tmp_path: Path) -> None:
    lists = [change.get(i, [1, 2]) for i in range(3000)]
    pq.write_table(made(lists, pa.list_(pa.int64())), tmp_path / "t.parquet")
    assert message in refusal(tmp_path / "t.parquet")


@pytest.mark.usefixtures("spills")
def test_a_trace_whose_lists_are_all_null_or_that_has_none_is_read(tmp_path: Path) -> None:
    nothing = made([None] * 5, pa.list_(pa.int32()))
    for table in (nothing, nothing.drop_columns(["token_ids"])):
        pq.write_table(table, tmp_path / "t.parquet")
        trace = read(tmp_path / "t.parquet")
        assert len(trace) == 5
        assert not trace.has_tokens


@pytest.mark.usefixtures("spills")
def test_no_room_for_temporary_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert "set TMPDIR to a folder on a disk" in refusal(RECORDED)
    monkeypatch.setattr(tempfile, "tempdir", None)
    full = Path("/dev/full")
    if full.exists():
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full.open("wb", buffering=0))
        assert "No space left on device" in refusal(RECORDED)


@pytest.mark.usefixtures("spills")
def test_a_damaged_large_file_is_refused(tmp_path: Path) -> None:
    content = bytearray(RECORDED.read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "t.parquet").write_bytes(content)
    assert "is not a whole Parquet file" in refusal(tmp_path / "t.parquet")
