"""Each broken rule is refused, and the message names file, row, column, value and fix."""

import numpy as np
import pyarrow as pa
import pytest

from traces import io
from traces.casting import canonical
from traces.errors import InputError
from traces.validation import validate

NAN = float("nan")

BROKEN = {
    "output_tokens below 1": ({"output_tokens": [3, 0, 2]}, "row 1, column 'output_tokens': 0 is less than 1"),
    "negative prompt_tokens": ({"prompt_tokens": [2, -1, 2]}, "row 1, column 'prompt_tokens': -1 is less than 0"),
    "negative step": ({"step": [1, 0, -5]}, "row 2, column 'step': -5 is less than 0"),
    "negative sample": ({"sample": [-1, 0, 0]}, "row 0, column 'sample': -1 is less than 0"),
    "negative epoch": ({"epoch": [None, -1, None]}, "row 1, column 'epoch': -1 is less than 0"),
    "token count": (
        {"token_ids": [[1, 2, 3], [4], [5]]},
        "row 2, column 'token_ids': 1 elements but output_tokens is 2",
    ),
    "prompt count": (
        {"prompt_token_ids": [[7, 8, 9], [], [7, 8]]},
        "row 0, column 'prompt_token_ids': 3 elements but prompt_tokens is 2",
    ),
    "logprob count": (
        {"logprobs": [[0.0] * 3, [], [0.0] * 2]},
        "row 1, column 'logprobs': 0 elements but output_tokens",
    ),
    "next_logprob count": (
        {"next_logprobs": [[0.0] * 3, [0.0], [0.0]]},
        "row 2, column 'next_logprobs': 1 elements but output_tokens is 2",
    ),
    "some next_logprobs": (
        {"next_logprobs": [[0.0] * 3, None, [0.0] * 2]},
        "row 1, column 'next_logprobs': null where other rows",
    ),
    "null next_logprob": (
        {"next_logprobs": [[0.0] * 3, [None], [0.0] * 2]},
        "row 1, column 'next_logprobs': null inside the list",
    ),
    "accept_lengths count": (
        {"accept_lengths": [[0] * 3, [0], [0]]},
        "row 2, column 'accept_lengths': 1 elements but output_tokens is 2",
    ),
    "some accept_lengths": (
        {"accept_lengths": [[0] * 3, [0], None]},
        "row 2, column 'accept_lengths': null where other rows",
    ),
    "null accept_length": (
        {"accept_lengths": [[0, None, 0], [0], [0, 0]]},
        "row 0, column 'accept_lengths': null inside the list",
    ),
    "accepted beyond the end": (
        {"accept_lengths": [[3, 2, 1], [0], [2, 2]]},
        "row 2, column 'accept_lengths': 2 at position 1 is not between 0 and the 1 tokens from there on",
    ),
    "negative accept_length": (
        {"accept_lengths": [[3, -1, 2], [2], [0, 0]]},
        "row 0, column 'accept_lengths': -1 at position 1 is not between 0 and the 2 tokens from there on (and 1 more)",
    ),
    "draft_lengths count": (
        {"draft_lengths": [[3, 1, 1], [0], [2]]},
        "row 2, column 'draft_lengths': 1 elements but output_tokens is 2",
    ),
    "fewer drafted than accepted": (
        {"draft_lengths": [[3, 1, 1], [0], [1, 0]]},
        "row 2, column 'draft_lengths': 1 at position 0, where 2 were accepted",
    ),
    "drafted without accepted": (
        {"draft_lengths": [[3, 1, 1], [0], [2, 0]], "accept_lengths": None},
        "row 0, column 'draft_lengths': drafted tokens without the accepted ones",
    ),
    "duplicate": ({"step": [0, 0, 0]}, "row 2, column 'sample': step 0, prompt 'b', sample 0 is already in row 0"),
    "null step": ({"step": [1, None, 0]}, "row 1, column 'step': null in a required column"),
    "null prompt": ({"prompt_id": ["b", "a", None]}, "row 2, column 'prompt_id': null in a required column"),
    "some token_ids": ({"token_ids": [[1, 2, 3], None, [5, 6]]}, "row 1, column 'token_ids': null where other rows"),
    "some arrivals": ({"arrival_s": [0.0, 0.0, None]}, "row 2, column 'arrival_s': null where other rows"),
    "null token": ({"token_ids": [[1, 2, 3], [4], [None, 6]]}, "row 2, column 'token_ids': null inside the list"),
    "negative token": (
        {"token_ids": [[1, 2, 3], [4], [5, -100]]},
        "row 2, column 'token_ids': -100 is a negative token",
    ),
    "negative prompt token": (
        {"prompt_token_ids": [[7, 8], [], [-1, 8]]},
        "row 2, column 'prompt_token_ids': -1 is a negative token",
    ),
    "finish_reason": ({"finish_reason": ["eos", "stop", None]}, "row 0, column 'finish_reason': 'eos' is not a finish"),
    "negative arrival": ({"arrival_s": [0.0, -0.5, 0.0]}, "row 1, column 'arrival_s': -0.5 is not a time"),
    "NaN arrival": ({"arrival_s": [0.0, 0.0, NAN]}, "row 2, column 'arrival_s': nan is not a time"),
    "turns sum": (
        {"turns": [None, None, [{"generated_tokens": 1, "wait_s": 0.0}]]},
        "row 2, column 'turns': generated_tokens sum to 1 but output_tokens is 2",
    ),
    "no turns": (
        {"turns": [None, [], None]},
        "row 1, column 'turns': generated_tokens sum to 0 but output_tokens is 1",
    ),
    "negative wait": (
        {"turns": [None, [{"generated_tokens": 1, "wait_s": -1.0}], None]},
        "row 1, column 'turns': turn",
    ),
    "NaN wait": ({"turns": [None, [{"generated_tokens": 1, "wait_s": NAN}], None]}, "row 1, column 'turns': turn"),
    "null turn": (
        {"turns": [None, None, [{"generated_tokens": 2, "wait_s": 0.0}, None]]},
        "row 2, column 'turns': turn",
    ),
    "too large": ({"sample": pa.array([0, 0, 2**31])}, "row 2, column 'sample': 2147483648 does not fit int32"),
    "too small": ({"step": pa.array([1, 0, -(2**40)])}, "row 2, column 'step': -1099511627776 does not fit int32"),
    "token too large": (
        {"token_ids": pa.array([[1, 2, 3], [4], [5, 2**32 + 6]])},
        "row 2, column 'token_ids': 4294967302 does not fit int32",
    ),
    "uint64 hash": (
        {"block_hashes": pa.array([[1], [2**63], []], pa.list_(pa.uint64()))},
        "row 1, column 'block_hashes': 9223372036854775808 does not fit int64",
    ),
    "float step": ({"step": pa.array([1.0, 0.0, 0.0])}, "column 'step' has type double, needs int32"),
    "text tokens": ({"token_ids": pa.array(["1 2 3", "4", "5 6"])}, "column 'token_ids' has type string"),
    "number prompt": ({"prompt_id": pa.array([2, 1, 2])}, "column 'prompt_id' has type int64, needs string"),
    "null typed step": ({"step": pa.nulls(3)}, "row 0, column 'step': null in a required column (and 2 more)"),
    "missing": ({"output_tokens": None}, "column 'output_tokens' is missing"),
    "misspelt": (
        {"output_tokens": None, "output_token": [3, 1, 2]},
        "column 'output_tokens' is missing; the file has step",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_refusals_name_the_place(make_table, changes, message):
    with pytest.raises(InputError) as refusal:
        io.from_table(make_table(**changes), "my.parquet")
    text = str(refusal.value)
    assert text.startswith("my.parquet: ")
    assert message in text
    assert "\n" not in text
    assert text.count(": ") >= 2  # what was wrong, and what to do


def test_a_misspelt_column_is_suggested(make_table):
    with pytest.raises(InputError, match="rename 'output_token' if that is it"):
        io.from_table(make_table(output_tokens=None, output_token=[3, 1, 2]))


def test_a_column_twice(make_table):
    table = make_table()
    table = table.append_column("step", table.column("step"))
    with pytest.raises(InputError, match="column 'step' appears 2 times"):
        io.from_table(table)


def test_no_rows(make_table):
    with pytest.raises(InputError, match="0 rows"):
        io.from_table(make_table().slice(0, 0))


def test_rows_are_counted_over_chunks(make_table):
    table = make_table(token_ids=[[1, 2, 3], [4], [-5, 6]])
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 1), table.slice(2)])
    with pytest.raises(InputError, match="row 2, column 'token_ids': -5"):
        validate(canonical(chunked, "chunks"), "chunks")


def test_first_bad_row_and_how_many(make_table):
    with pytest.raises(InputError, match=r"row 1, column 'output_tokens': -2 is less than 1 \(and 1 more\)"):
        io.from_table(make_table(output_tokens=[1, -2, 0]))


def test_every_duplicate_is_found():
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 6, size=(200, 3))
    seen: set[tuple[int, ...]] = set()
    repeats = 0
    for key in map(tuple, keys.tolist()):
        repeats += key in seen
        seen.add(key)
    table = pa.table(
        {
            "step": keys[:, 0],
            "prompt_id": [f"p{code}" for code in keys[:, 1]],
            "sample": keys[:, 2],
            "prompt_tokens": np.ones(200, int),
            "output_tokens": np.ones(200, int),
        }
    )
    with pytest.raises(InputError, match=rf"\(and {repeats - 1} more\)"):
        io.from_table(table)
