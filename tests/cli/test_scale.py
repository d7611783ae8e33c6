"""How memory grows with a trace: by what is live, not by all that is recorded."""

import sys
from pathlib import Path

import pytest

from tests.benchmarks.scale import KINDS, measured, played, written

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")

HELD = """
import os, sys
import numpy as np
from pathlib import Path
from traces import io

def anonymous_and_all():
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [1024 * int(told[name].split()[0]) for name in ("RssAnon", "VmRSS")]

io.read(Path("traces/data/demo.parquet"))
before = anonymous_and_all()
trace = io.read(sys.argv[1])
most = [0, 0]
for step in trace.steps:
    rows = np.flatnonzero(trace.step == step)
    assert trace.tokens[trace.offsets[rows[0]] : trace.offsets[rows[-1] + 1]].sum() > 0
    most = np.maximum(most, np.subtract(anonymous_and_all(), before))
    trace.release()
print(*most, 4 * trace.tokens.size)
"""


def test_reading_24_rl_steps_holds_one(tmp_path: Path) -> None:
    """While RL steps are read one after another, memory has one of them; a quarter of the whole leaves room for noise."""
    written(tmp_path / "t.parquet", 24 * 512, 24, True)
    out = tmp_path / "held"
    measured(["sh", "-c", 'exec "$0" -c "$1" "$2" > "$3"', sys.executable, HELD, str(tmp_path / "t.parquet"), str(out)])
    anonymous, resident, tokens = map(int, out.read_text().split())
    assert tokens > 200e6
    assert anonymous < tokens / 4
    assert resident < tokens / 4


def test_a_rollout_without_drafts_takes_as_much_memory_in_any_trace() -> None:
    """No table of its tokens, 5,000 each, and its 20 decode steps are packed: in all under 1,200 bytes, most of them its records.

    Both have more decode steps than a result keeps one by one, so neither has the table of those, which would take 7,000.
    """
    (_, small), (tokens, large) = (played(KINDS["none"], rollouts) for rollouts in (160_000, 320_000))
    assert tokens > 1.5e9
    assert large.anonymous_bytes - small.anonymous_bytes < 1200 * 160_000
