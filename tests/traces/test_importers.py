"""Importers read what other systems log, and name file and line of what they cannot read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traces import io
from traces.errors import InputError
from traces.importers import FORMATS, import_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def refused(path, file_format, **options):
    with pytest.raises(InputError) as refusal:
        import_trace(path, file_format, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Azure


def test_azure_recording(shared_data):
    table = import_trace(shared_data / "serving" / "AzureLLMInferenceTrace_code.csv", "azure")
    trace = io.from_table(table)
    assert len(trace) == len(trace.prompt_ids) == 8819
    assert trace.prompt_tokens[:2].tolist() == [4808, 3180]
    assert trace.output_tokens[:2].tolist() == [10, 8]
    arrival_s = table.column("arrival_s").to_numpy()
    assert arrival_s[0] == 0.0
    assert arrival_s[1] == pytest.approx(0.052, abs=1e-6)  # 18:17:03.97996 to 18:17:04.03196
    assert arrival_s[-1] == pytest.approx(57 * 60 + 15.948056, abs=1e-5)  # to 19:14:19.928016
    assert io.provenance(table)["dropped_empty"] == 0


def test_azure_times_count_from_the_earliest_and_know_zones(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(AZURE + "2024-05-10 00:00:01.5+00:00,5,2\r\n2024-05-10 00:00:01+00:00,5,2\r\n")
    assert import_trace(path, "azure").column("arrival_s").to_pylist() == [0.5, 0.0]


def test_azure_rows_without_output(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(AZURE + "2023-11-16 18:00:00,5,2\n2023-11-16 18:00:01,5,0\n2023-11-16 18:00:02,5,3\n")
    message = refused(path, "azure")
    assert message.startswith(f"{path}: line 3: 0 output tokens: nothing to replay")
    assert "--drop-empty" in message
    table = import_trace(path, "azure", drop_empty=True)
    assert table.column("output_tokens").to_pylist() == [2, 3]
    assert table.column("arrival_s").to_pylist() == [0.0, 2.0]
    assert io.provenance(table)["dropped_empty"] == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("2023-11-16 18:00:00,5,2\nyesterday,5,2\n", "line 3, column 'TIMESTAMP': 'yesterday' is not a time"),
        ("2023-11-16 18:00:00,many,2\n", "line 2, column 'ContextTokens': 'many' is not a whole number"),
        ("2023-11-16 18:00:00,-1,2\n", "line 2, column 'ContextTokens': -1 is less than 0"),
        ("2023-11-16 18:00:00,5,2.5\n", "line 2, column 'GeneratedTokens': '2.5' is not a whole number"),
        ("2023-11-16 18:00:00,5\n", "line 2: 2 cells, but the header has 3"),
        ('2023-11-16 18:00:00,"5,2\n', "is not CSV"),
        (f"2023-11-16 18:00:00,{2**31},2\n", "line 2, column 'prompt_tokens': 2147483648 is not int32"),
        ("", "0 rows"),
    ],
)
def test_azure_refusals(tmp_path, rows, message):
    path = tmp_path / "a.csv"
    path.write_text(AZURE + rows)
    assert message in refused(path, "azure")


def test_azure_of_another_format(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time,tokens\n1,2\n")
    assert "line 2: no 'TIMESTAMP'; found 'time', 'tokens'" in refused(path, "azure")


# Mooncake


def test_mooncake_recording(shared_data):
    path = shared_data / "serving" / "mooncake_conversation_trace.jsonl"
    table = import_trace(path, "mooncake")
    assert table.num_rows == 12031
    with path.open() as file:
        lines = [json.loads(line) for line in file]
    assert table.column("block_hashes").to_pylist() == [line["hash_ids"] for line in lines]
    assert table.column("output_tokens").to_pylist() == [line["output_length"] for line in lines]
    assert table.column("prompt_tokens").to_pylist() == [line["input_length"] for line in lines]
    assert table.column("arrival_s").to_pylist() == [line["timestamp"] / 1000 for line in lines]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"timestamp": 0, "input_length": 5,', "line 2: is not JSON"),
        ("[1]", "line 2: is list, not a JSON object"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1}', "line 2: no 'hash_ids'; found 'timestamp'"),
        (
            '{"timestamp": 0, "input_length": true, "output_length": 1, "hash_ids": []}',
            "line 2, key 'input_length': True is not a whole number",
        ),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1, "x"]}',
            "line 2, key 'hash_ids': 'x' is not a whole number",
        ),
        (
            '{"timestamp": NaN, "input_length": 5, "output_length": 1, "hash_ids": []}',
            "line 2, column 'arrival_s': nan is not a time",
        ),
    ],
)
def test_mooncake_refusals(tmp_path, line, message):
    path = tmp_path / "m.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [0]}\n' + line + "\n")
    text = refused(path, "mooncake")
    assert text.startswith(f"{path}: ")
    assert message in text


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [0]}\n{"x": "\xff"}\n')
    assert "line 2: byte 0xff at position 7 is not UTF-8" in refused(path, "mooncake")


# Columns under other names


def test_csv_with_a_column_map(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        '\ufeffstep,problem,prompt_tokens,gen_len,ids,finish_reason,comment\nx,a,3,2,"[5, 6]",stop,\n'.replace("x", "0")
        + '0,a,3.0,1,[7],,"said ""hi"", twice"\n'
    )
    names = {"prompt_id": "problem", "output_tokens": "gen_len", "token_ids": "ids"}
    table = import_trace(path, "csv", column_map=names)
    trace = io.from_table(table)
    assert trace.prompt_ids == ["a"]
    assert trace.sample.tolist() == [0, 1]
    assert trace.tokens.tolist() == [5, 6, 7]
    assert table.column("finish_reason").to_pylist() == ["stop", None]
    note = io.provenance(table)
    assert note["ignored_columns"] == ["comment"]
    assert any("sample counts" in sentence for sentence in note["assumed"])


def test_jsonl_lengths_follow_from_ids(tmp_path):
    path = jsonl(
        tmp_path / "t.jsonl",
        {"prompt_id": 7, "prompt_token_ids": [1], "response": [2, 3], "reward": 1},
        {"prompt_id": 8, "prompt_token_ids": [], "response": [4]},
    )
    trace = io.from_table(import_trace(path, "jsonl", column_map={"token_ids": "response"}))
    assert trace.prompt_ids == ["7", "8"]
    assert trace.steps == [0]
    assert trace.output_tokens.tolist() == [2, 1]
    assert trace.prompt_tokens.tolist() == [1, 0]
    assert trace.tokens.tolist() == [2, 3, 4]


def test_parquet_with_a_column_map(tmp_path, make_table):
    table = make_table().rename_columns(
        ["gen" if name == "output_tokens" else name for name in make_table().column_names]
    )
    pq.write_table(table.append_column("note", pa.array(["x", "y", "z"])), tmp_path / "t.parquet")
    read = import_trace(tmp_path / "t.parquet", "parquet", column_map={"output_tokens": "gen"})
    assert read.column("output_tokens").to_pylist() == [3, 1, 2]
    assert read.column("note").to_pylist() == ["x", "y", "z"]
    assert "gen" not in read.column_names


@pytest.mark.parametrize(
    ("row", "names", "message"),
    [
        ({"gen": 2}, {"output_token": "gen"}, "'output_token' is not a trace column: did you mean 'output_tokens'?"),
        ({"gen_len": 2}, {"output_tokens": "gen_length"}, "the file has no 'gen_length': did you mean 'gen_len'?"),
        ({"output_tokens": 2, "prompt_tokens": 1}, {}, "has no column for 'prompt_id'"),
        ({"output_tokens": "long"}, {}, "line 1, column 'output_tokens': 'long' is not a whole number"),
        ({"token_ids": 5}, {}, "line 1, column 'token_ids': 5 is not a list"),
        ({"token_ids": ["a"]}, {}, "line 1, column 'token_ids': 'a' is not a whole number"),
        ({"token_ids": [1, 2.5]}, {}, "line 1, column 'token_ids': 2.5 is not a whole number"),
        ({"reward": "good"}, {}, "line 1, column 'reward': 'good' is not a number"),
        (
            {"prompt_id": "p", "prompt_tokens": 1, "output_tokens": 2, "token_ids": [1]},
            {},
            "line 1, column 'token_ids': 1 elements but output_tokens is 2",
        ),
        ({"prompt_id": "p", "prompt_tokens": -4, "output_tokens": 2}, {}, "line 1, column 'prompt_tokens': -4 is less"),
    ],
)
def test_column_refusals(tmp_path, row, names, message):
    path = jsonl(tmp_path / "t.jsonl", row)
    assert message in refused(path, "jsonl", column_map=names)


def test_paths_and_formats(tmp_path):
    assert "no such file" in refused(tmp_path / "absent.csv", "azure")
    assert "holds no .jsonl or .json file" in refused(tmp_path, "jsonl")
    path = tmp_path / "e.csv"
    path.touch()
    assert "is empty" in refused(path, "csv")
    assert "unknown format 'xlsx': choose from " + ", ".join(one.name for one in FORMATS) in refused(path, "xlsx")
    assert "has fixed columns" in refused(path, "azure", column_map={"step": "s"})
