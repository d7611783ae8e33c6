"""Traces come back from disk as they were, harmless variants are cast, and a failed write leaves nothing behind."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traces import io
from traces.errors import InputError
from traces.schema import REQUIRED, SCHEMA, columns

DATA = Path(__file__).parents[2] / "traces" / "data"


@st.composite
def tables(draw):
    """Valid traces of up to 6 rollouts, with or without each optional column."""
    int32 = st.integers(0, 2**31 - 1)
    keys = draw(st.lists(st.tuples(int32, st.text(max_size=3), int32), min_size=1, max_size=6, unique=True))
    n = len(keys)

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    responses = column(st.lists(int32, min_size=1, max_size=5))
    prompts = column(st.lists(int32, max_size=3))
    data = {
        "step": [step for step, _, _ in keys],
        "prompt_id": [prompt for _, prompt, _ in keys],
        "sample": [sample for _, _, sample in keys],
        "prompt_tokens": [len(prompt) for prompt in prompts],
        "output_tokens": [len(response) for response in responses],
        "token_ids": responses,
        "prompt_token_ids": prompts,
        "reward": column(st.none() | st.floats(width=32)),
        "finish_reason": column(st.sampled_from(["stop", "length", "aborted", None])),
        "arrival_s": column(st.floats(0, 1e9)),
        "turns": [[{"generated_tokens": len(response), "wait_s": 0.25}] for response in responses],
    }
    names = [name for name in data if name in REQUIRED or draw(st.booleans())]
    return pa.table({name: pa.array(data[name], SCHEMA.field(name).type) for name in names})


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_round_trip(table, tmp_path):
    path = tmp_path / "trace.parquet"
    io.write(table, path, {"made by": "a test"})
    trace = io.read(path)
    for name in table.column_names:
        assert repr(trace.table.column(name).to_pylist()) == repr(
            table.column(name).to_pylist()
        )  # repr: NaN equals NaN
    assert trace.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert trace.source == str(path)
    names = table.column("prompt_id").to_pylist()
    assert [trace.prompt_ids[code] for code in trace.prompt] == names
    assert trace.prompt_ids == list(dict.fromkeys(names))
    if trace.has_tokens:
        for row, tokens in enumerate(table.column("token_ids").to_pylist()):
            assert trace.tokens[trace.offsets[row] : trace.offsets[row + 1]].tolist() == tokens
    if trace.has_prompts:
        for row, tokens in enumerate(table.column("prompt_token_ids").to_pylist()):
            begin, end = trace.prompt_offsets[row : row + 2]
            assert trace.prompt_token_ids_flat[begin:end].tolist() == tokens


def test_byte_split_columns_read_the_same_and_others_are_encoded_as_ever(make_table, tmp_path):
    paths = tmp_path / "plain.parquet", tmp_path / "split.parquet"
    encodings = []
    for path, split in zip(paths, [(), ("logprobs",)], strict=True):
        io.write(make_table(reward=None), path, {}, split)
        group = pq.ParquetFile(path).metadata.row_group(0)
        columns = [group.column(i) for i in range(group.num_columns)]
        encodings.append({column.path_in_schema.split(".")[0]: column.encodings for column in columns})
    plain, split = encodings
    assert "BYTE_STREAM_SPLIT" in split.pop("logprobs")
    assert "RLE_DICTIONARY" in plain.pop("logprobs")
    assert split == plain
    assert io.read(paths[0]).table.equals(io.read(paths[1]).table)


def test_arrays_are_flat_and_keep_the_queue_order(make_table):
    trace = io.from_table(make_table())
    assert len(trace) == 3
    assert trace.step.tolist() == [1, 0, 0]
    assert trace.steps == [0, 1]
    assert trace.prompt.tolist() == [0, 1, 0]
    assert trace.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert trace.offsets.tolist() == [0, 3, 4, 6]
    assert trace.prompt_token_ids_flat.tolist() == [7, 8, 7, 8]
    assert trace.prompt_offsets.tolist() == [0, 2, 2, 4]
    for array in (trace.step, trace.sample, trace.prompt, trace.prompt_tokens, trace.output_tokens, trace.tokens):
        assert array.dtype == np.int32
        assert array.flags.c_contiguous
        assert not array.flags.writeable


def test_chunked_columns_read_like_whole_ones(make_table, tmp_path):
    whole = make_table()
    pq.write_table(whole, tmp_path / "groups.parquet", row_group_size=1)
    trace = io.read(tmp_path / "groups.parquet")
    assert trace.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert trace.prompt.tolist() == [0, 1, 0]
    chunked = io.from_table(pa.concat_tables([whole.slice(0, 1), whole.slice(1)]))
    assert chunked.tokens.tolist() == trace.tokens.tolist()
    assert chunked.sha256 == io.from_table(whole).sha256


def test_select_by_rows_and_by_mask(make_table):
    trace = io.from_table(make_table())
    picked = trace.select(np.array([2, 0]))
    assert picked.tokens.tolist() == [5, 6, 1, 2, 3]
    assert picked.prompt_ids == ["b"]
    assert picked.sha256 == trace.sha256
    assert trace.select(trace.step == 0).output_tokens.tolist() == [1, 2]
    for wrong in (np.array([3]), np.array([-1]), np.zeros(3, bool), np.ones(2, bool)):
        with pytest.raises(InputError):
            trace.select(wrong)


def test_lengths_alone_make_a_trace(make_table):
    trace = io.from_table(make_table(token_ids=None, prompt_token_ids=pa.nulls(3), logprobs=None))
    assert not trace.has_tokens
    assert not trace.has_prompts
    assert trace.offsets.tolist() == [0, 3, 4, 6]
    with pytest.raises(InputError, match="has no token_ids"):
        _ = trace.tokens


def test_harmless_variants_are_cast(make_table, tmp_path):
    table = make_table(
        step=pa.array([1, 0, 0], pa.int64()),
        sample=pa.array([0, 0, 0], pa.uint8()),
        prompt_id=pa.array(["b", "a", "b"], pa.large_string()),
        policy=pa.array(["m", None, "m"]).dictionary_encode(),
        finish_reason=pa.nulls(3),
        reward=pa.array([1, 0, None], pa.float64()),
        token_ids=pa.array([[1, 2, 3], [4], [5, 6]], pa.large_list(pa.int64())),
        prompt_token_ids=pa.array([[7, 8], [], [7, 8]], pa.list_(pa.uint16())),
        note=["kept", "as", "is"],
    )
    pq.write_table(table, tmp_path / "variants.parquet")
    trace = io.read(tmp_path / "variants.parquet")
    for field in trace.table.schema:
        if field.name != "note":
            assert field.type == SCHEMA.field(field.name).type
    assert trace.table.column("note").to_pylist() == ["kept", "as", "is"]
    assert trace.table.column("policy").to_pylist() == ["m", None, "m"]
    assert trace.tokens.tolist() == [1, 2, 3, 4, 5, 6]


def test_provenance_joins_the_metadata_that_was_there(make_table, tmp_path):
    table = make_table().replace_schema_metadata({"source": "elsewhere"})
    io.write(table, tmp_path / "t.parquet", {"seed": 7})
    metadata = pq.read_schema(tmp_path / "t.parquet").metadata
    assert metadata[b"source"] == b"elsewhere"
    assert json.loads(metadata[b"rolloutsim"]) == {"schema_version": 1, "seed": 7}
    trace = io.read(tmp_path / "t.parquet")
    assert io.provenance(trace.table)["seed"] == 7
    io.write(trace, tmp_path / "again.parquet", io.provenance(trace.table))
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "t.parquet").read_bytes()


def test_a_newer_schema_is_refused(make_table, tmp_path):
    table = make_table().replace_schema_metadata({"rolloutsim": '{"schema_version": 99}'})
    pq.write_table(table, tmp_path / "new.parquet")
    with pytest.raises(InputError, match="schema version 99"):
        io.read(tmp_path / "new.parquet")
    pq.write_table(table.replace_schema_metadata({"rolloutsim": "{"}), tmp_path / "odd.parquet")
    with pytest.raises(InputError, match="not a JSON object"):
        io.read(tmp_path / "odd.parquet")


def test_a_failed_write_keeps_the_old_file_and_no_scratch(make_table, tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    io.write(make_table(), path, {})
    before = path.read_bytes()

    def run_out_of_disk(*args, **kwargs):
        args[1].write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", run_out_of_disk)
    with pytest.raises(OSError, match="No space left"):
        io.write(make_table(), path, {})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.parquet"]


def test_writing_where_one_cannot(make_table, tmp_path):
    with pytest.raises(InputError, match="create the folder"):
        io.write(make_table(), tmp_path / "absent" / "t.parquet", {})
    with pytest.raises(InputError, match="is a folder"):
        io.write(make_table(), tmp_path, {})
    with pytest.raises(InputError, match="output_tokens"):
        io.write(make_table(output_tokens=[0, 1, 2]), tmp_path / "t.parquet", {})
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_trace(make_table, tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(InputError, match="no such file"):
        io.read(path)
    with pytest.raises(InputError, match="is a folder"):
        io.read(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        io.read(path)
    path.write_text("step,prompt_id\n0,a\n")
    with pytest.raises(InputError, match="is not a Parquet file"):
        io.read(path)
    io.write(make_table(), path, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        io.read(path)


def test_a_shipped_trace_goes_by_its_name_unless_a_file_has_it(make_table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = io.read("demo")
    assert (shipped.source, shipped.sha256) == ("demo", io.read(DATA / "demo.parquet").sha256)
    io.write(make_table(), "demo", {})
    assert len(io.read("demo")) == make_table().num_rows != len(shipped)
    with pytest.raises(InputError, match="countdwn: no such file: check the path"):
        io.read("countdwn")


def test_damaged_bytes_never_pass_for_a_trace(make_table, tmp_path):
    path = tmp_path / "t.parquet"
    io.write(make_table(), path, {})
    whole = path.read_bytes()
    expected = io.read(path).table
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            table = io.read(path).table
        except InputError:
            refused += 1
        else:  # a byte that no value depends on, such as an encoding statistic or a name in the footer
            known = [name for name in table.column_names if name in SCHEMA.names]
            assert all(
                repr(table.column(name).to_pylist()) == repr(expected.column(name).to_pylist()) for name in known
            )
    assert refused > 150


def test_every_column_is_documented():
    documented = columns()
    assert [entry["column"] for entry in documented] == SCHEMA.names
    assert all(entry["unit"] and entry["description"] for entry in documented)
    assert {entry["column"] for entry in documented if entry["need"] == "required"} == set(REQUIRED)


def test_recorded_rollouts_read_whole(shared_data):
    trace = io.read(shared_data / "rollouts" / "llama3b_rl_math.parquet")
    assert len(trace) == 7000
    assert trace.steps == [0, 1]
    assert len(trace.prompt_ids) == 70
    assert len(trace.tokens) == trace.offsets[-1] == trace.output_tokens.sum()
    assert trace.table.column("finish_reason").null_count == 7000
    assert trace.table.schema.field("policy").type == pa.string()
