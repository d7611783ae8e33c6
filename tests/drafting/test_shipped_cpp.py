"""What the drafters are held to, measured again with ArcticInference's C++ where an environment has it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.calibration.live.live_engine import PYTHON, needs_vllm
from tests.drafting.test_scored import PUBLISHED
from tests.drafting.test_tree import SHIPPED
from traces.io import read
from traces.trace import Trace

MEASURE = Path(__file__).with_name("shipped_cpp.py")


def groups_of(trace: Trace, past: npt.NDArray[np.int64], now: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    def tokens(rows: npt.NDArray[np.int64], prompt: int) -> list[list[int]]:
        mine = rows[trace.prompt[rows] == prompt]
        return [trace.tokens[trace.offsets[row] : trace.offsets[row + 1]].tolist() for row in mine]

    return [
        {"past": tokens(past, prompt), "now": tokens(now, prompt)} for prompt in np.unique(trace.prompt[now]).tolist()
    ]


def test_the_shipped_cpp_counts_what_the_drafters_are_held_to(shared_data: Path) -> None:
    needs_vllm()
    trace = read(shared_data / "rollouts" / "llama3b_rl_math.parquet")
    now, past = np.flatnonzero((trace.step == 1) & (trace.sample < 4)), np.flatnonzero(trace.step == 0)
    asked = {"groups": groups_of(trace, past, now), "settings": [(8, 1.0, True, False), (8, 1.0, True, True)]}
    told = subprocess.run([PYTHON, str(MEASURE)], input=json.dumps(asked), capture_output=True, text=True, check=True)
    path, tree = json.loads(told.stdout)
    assert path == list(PUBLISHED[1][3:6])
    assert tree == list(SHIPPED[1][2:])
