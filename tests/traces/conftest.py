"""A small valid trace that the tests of this folder bend out of shape."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from traces.schema import SCHEMA

ROWS: dict[str, list[Any]] = {
    "step": [1, 0, 0],
    "prompt_id": ["b", "a", "b"],
    "sample": [0, 0, 0],
    "prompt_tokens": [2, 0, 2],
    "output_tokens": [3, 1, 2],
    "policy": ["m", None, "m"],
    "epoch": [1, 0, None],
    "finish_reason": ["stop", "length", None],
    "reward": [1.0, float("nan"), None],
    "arrival_s": [0.5, 0.0, 2.0],
    "prompt_token_ids": [[7, 8], [], [7, 8]],
    "token_ids": [[1, 2, 3], [4], [5, 6]],
    "logprobs": [[-0.5, -1.0, 0.0], [-2.0], [0.0, 0.0]],
    "next_logprobs": [[-0.25, -1.5, 0.0], [-2.0], [0.0, -0.5]],
    "accept_lengths": [[3, 0, 1], [0], [2, 0]],
    "draft_lengths": [[3, 0, 4], [0], [5, 1]],
    "turns": [
        [{"generated_tokens": 1, "wait_s": 0.5}, {"generated_tokens": 2, "wait_s": 0.0}],
        None,
        [{"generated_tokens": 2, "wait_s": 0.0}],
    ],
    "block_hashes": [[1, -2], [], None],
}


@pytest.fixture
def make_table() -> Callable[..., pa.Table]:
    """Build the table of ROWS with some columns replaced (values or Arrow arrays), or left out (None)."""

    def make(**changes: Any) -> pa.Table:
        columns = {**ROWS, **changes}
        arrays = {}
        for name, values in columns.items():
            if values is None:
                continue
            if isinstance(values, pa.Array) or name not in SCHEMA.names:
                arrays[name] = values
            else:
                arrays[name] = pa.array(values, SCHEMA.field(name).type)
        return pa.table(arrays)

    return make
