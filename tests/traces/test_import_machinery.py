"""Files of any number and size become one trace: found, unpacked, recognised, read in chunks, written whole or not at all."""

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traces import io
from traces.errors import InputError
from traces.importers import FORMATS, import_files, import_trace, lines, source, spool
from traces.importers.cap import cap_of
from traces.importers.files import files_of


def rollouts(path, rows, **more):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps({**row, **more}) + "\n" for row in rows))
    return path


def row(prompt="p", tokens=3, **more):
    return {"prompt_id": prompt, "prompt_tokens": 2, "output_tokens": tokens, **more}


def refused(*arguments, **options):
    with pytest.raises(InputError) as refusal:
        import_trace(*arguments, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# Finding


def test_files_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("10", "2", "1"):
        rollouts(tmp_path / "steps" / f"{name}.jsonl", [row(tokens=int(name))])
    rollouts(tmp_path / "steps" / ".hidden.jsonl", [row(tokens=99)])
    (tmp_path / "steps" / "readme.md").write_text("no rollouts")
    table = import_trace(tmp_path / "steps")
    assert table.column("step").to_pylist() == table.column("output_tokens").to_pylist() == [1, 2, 10]
    assert "step is the number that ends the file's name" in io.provenance(table)["assumed"]
    assert import_trace(tmp_path / "steps" / "1*.jsonl").column("step").to_pylist() == [1, 10]
    twice = [tmp_path / "steps" / "2.jsonl", tmp_path / "steps"]
    assert [file.stem for file in files_of(twice)] == ["2", "1", "10"]  # each once, the one that is named first


def test_nothing_found(tmp_path):
    assert "matches no file" in refused(tmp_path / "*.jsonl")
    assert "holds no" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "1.jsonl")


# Unpacking


def test_packed_files_read_like_plain_ones(tmp_path):
    plain = rollouts(tmp_path / "a.jsonl", [row(tokens=n + 1) for n in range(50)])
    content = plain.read_bytes()
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(content[:900]) + gzip.compress(content[900:]))  # as `cat one.gz two.gz` makes them
    zstd = tmp_path / "a.jsonl.zst"
    zstd.write_bytes(pa.compress(content, "zstd", asbytes=True))
    expected = import_trace(plain)
    assert import_trace(packed).equals(expected)
    assert import_trace(zstd).equals(expected)
    packed.write_bytes(gzip.compress(content)[:-20])
    assert "cannot be read to its end" in refused(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"BZh91AY&SY", "bzip2"),
        (b"", "is empty (0 bytes)"),
        (b"PAR1 and no more", "is not a whole Parquet file"),
        (b"\x80\x02}q\x00.", "shows no known format (text)"),
        (b'{"a": 1}\n', "shows no known format (JSON with keys a): say which with --format (verl,"),
    ],
)
def test_look_alikes_are_named(tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert message in refused(path)


# Recognising


def test_formats_are_not_mixed(tmp_path):
    rollouts(tmp_path / "a.jsonl", [row()])
    (tmp_path / "b.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,5,2\n")
    assert "b.csv: is azure, but" in refused(tmp_path)
    assert import_trace(tmp_path, "jsonl").num_rows == 1  # of a folder, the files of the format that is named


def test_every_format_has_a_name_and_says_what_writes_it():
    names = [one.name for one in FORMATS]
    assert len(set(names)) == len(names)
    assert all(one.about and one.suffixes and all(end.startswith(".") for end in one.suffixes) for one in FORMATS)


def test_a_map_makes_a_table_of_any_file(tmp_path):
    path = rollouts(tmp_path / "a.jsonl", [{"id": 1, "turns": 1.0, "usage": {"in": 4, "out": [7]}}])
    names = {"prompt_id": "id", "prompt_tokens": "usage.in", "output_tokens": "usage.out.0"}
    assert "leave it out with --map turns=" in refused(path, column_map=names)
    table = import_trace(path, column_map={**names, "turns": ""})
    assert table.select(["prompt_id", "prompt_tokens", "output_tokens"]).to_pylist() == [
        {"prompt_id": "1", "prompt_tokens": 4, "output_tokens": 7}
    ]
    assert io.provenance(table)["ignored_columns"] == ["turns"]
    assert "the file has no 'usage.of'" in refused(path, column_map={**names, "output_tokens": "usage.of"})
    without = import_trace(path, column_map={**names, "turns": "", "prompt_id": ""})
    assert without.column("prompt_id").to_pylist() == ["request-0"]
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"id": "x", "turns": 1.0, "usage": {"in": 4, "out": 7}}]), parquet)
    inner = {"prompt_id": "id", "prompt_tokens": "usage.in", "output_tokens": "usage.out", "turns": ""}
    assert import_trace(parquet, column_map=inner).column("output_tokens").to_pylist() == [7]


# Chunks


@pytest.fixture
def tiny_chunks(monkeypatch):
    monkeypatch.setattr(source, "BLOCK_BYTES", 64)
    monkeypatch.setattr(lines, "CHUNK_BYTES", 150)
    monkeypatch.setattr(spool, "ROW_GROUP_BYTES", 1000)


def test_chunks_make_the_same_trace_as_the_whole(tmp_path, request):
    rows = [row(f"p{n % 7}", 1 + n % 11, **({"reward": n / 2} if n > 20 else {})) for n in range(60)]
    for step in (1, 2):
        rollouts(tmp_path / "d" / f"{step}.jsonl", rows, finish_reason="stop" if step == 2 else None)
    whole = import_trace(tmp_path / "d")
    assert pq.ParquetFile(_written(tmp_path / "d", tmp_path / "one.parquet")).num_row_groups == 1
    request.getfixturevalue("tiny_chunks")
    assert import_trace(tmp_path / "d").equals(whole)
    assert pq.ParquetFile(_written(tmp_path / "d", tmp_path / "many.parquet")).num_row_groups > 3
    assert whole.column("reward").to_pylist()[:60] == [n / 2 if n > 20 else None for n in range(60)]
    assert whole.column("sample").to_pylist()[:60] == [n // 7 for n in range(60)]


def _written(source_path, out):
    import_files(source_path, out)
    return out


def test_what_no_chunk_shows_is_found_between_them(tmp_path, tiny_chunks):
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    rollouts(one, [row(tokens=2, step=0, sample=n) for n in range(5)])
    rollouts(two, [row(tokens=2, step=0, sample=n) for n in range(4, 6)])
    assert "step 0, prompt 'p', sample 4 is there more than once" in refused([one, two])
    rollouts(two, [row(tokens=2, step=1, sample=0, token_ids=[1, 2])])
    assert f"{one}: has rows without 'token_ids', which {two} has" in refused([one, two])


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Ten times the file takes no more memory, but for the counts and keys of its rollouts (some 50 bytes each)."""
    line = json.dumps(row("p", 100, text="x" * 2000)) + "\n"
    code = (
        "import re, sys; from traces.importers import import_files, lines; lines.CHUNK_BYTES = 1 << 20; "
        "import_files(sys.argv[1], sys.argv[2]); print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    peaks = []
    for megabytes in (8, 80):
        path = tmp_path / f"{megabytes}.jsonl"
        path.write_text(line * (megabytes * 1_000_000 // len(line)))
        command = [sys.executable, "-c", code, str(path), str(tmp_path / "t.parquet")]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout) * 1024)
    assert peaks[1] - peaks[0] < 40e6, (
        peaks
    )  # the larger file alone would be 72 MB more, its objects several times that


def test_a_killed_import_leaves_nothing(tmp_path):
    path = rollouts(tmp_path / "in" / "a.jsonl", [row() for _ in range(10)])
    (tmp_path / "out").mkdir()
    code = (
        "import os, sys; from traces.importers import import_files; "
        "import_files(*sys.argv[1:], tell=lambda *_: os.kill(os.getpid(), 9))"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "out" / "t.parquet")], check=False)
    assert ended.returncode == -9
    assert list((tmp_path / "out").iterdir()) == []


def test_progress_is_told_in_bytes_to_the_end(tmp_path, tiny_chunks):
    for step in (1, 2):
        rollouts(tmp_path / "in" / f"{step}.jsonl", [row() for _ in range(20)])
    told = []
    import_files(tmp_path / "in", tmp_path / "t.parquet", tell=lambda *bytes_read: told.append(bytes_read))
    total = sum(file.stat().st_size for file in (tmp_path / "in").iterdir())
    assert told == sorted(told)
    assert len(told) > 4
    assert told[-1] == (total, total)


# The cap


def test_lengths_that_pile_up_are_cut(tmp_path):
    natural = [row(f"p{n}", 100 + 37 * n % 900) for n in range(100)]
    table = import_trace(rollouts(tmp_path / "a.jsonl", [*natural, *(row(f"c{n}", 1000) for n in range(5))]))
    assert table.column("finish_reason").to_pylist() == [None] * 100 + ["length"] * 5
    assert any("5 rollouts of 1,000 tokens" in sentence for sentence in io.provenance(table)["assumed"])
    assert "finish_reason" not in import_trace(rollouts(tmp_path / "b.jsonl", natural)).column_names
    said = import_trace(
        rollouts(tmp_path / "c.jsonl", [*natural, *(row(f"c{n}", 1000) for n in range(5))], finish_reason="stop")
    )
    assert set(said.column("finish_reason").to_pylist()) == {"stop"}


@pytest.mark.parametrize(
    ("lengths", "encoded", "cap"),
    [
        ({1000: 3, 500: 90}, False, 1000),
        ({1000: 2, 500: 90}, False, None),  # two may be chance
        ({50: 9, 20: 90}, False, None),  # so short, many are equal
        ({1000: 9}, False, None),  # all of one length, as with ignore_eos
        ({1000: 20, **dict.fromkeys(range(900, 1000), 3)}, False, None),  # no more than beside it
        ({1000: 40, **dict.fromkeys(range(900, 1000), 3)}, False, 1000),
        (
            {1003: 1, 1001: 1, 1000: 9, 999: 2, 700: 50},
            False,
            None,
        ),  # encoded again, they are not all as long as they were
        ({1003: 1, 1001: 1, 1000: 9, 999: 2, 700: 50}, True, 993),
        (dict.fromkeys(range(500, 1000), 3), True, None),
        ({1000: 5, 999: 4}, True, None),
    ],
)
def test_what_is_a_cap(lengths, encoded, cap):
    found = cap_of(lengths, encoded)
    assert (found.least_tokens if found else None) == cap
    assert found is None or found.rollouts == sum(count for tokens, count in lengths.items() if tokens >= cap)


def test_copies_of_a_file_are_refused(tmp_path):
    """TRL writes the same completions at every logging step until it generates anew."""
    ids = {"token_ids": list(range(300)), "prompt_token_ids": [1], "prompt_id": "p"}
    one, two = (rollouts(tmp_path / f"{step}.jsonl", [ids], step=step) for step in (1, 2))
    assert refused([one, two]) == f"{two}: holds the same responses as {one}: give one file for each generation"
    rollouts(two, [ids | {"token_ids": list(range(1, 301))}], step=2)
    assert import_trace([one, two]).num_rows == 2
