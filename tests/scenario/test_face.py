"""What `import simulator` gives, and the lines of Python that README shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import simulator
from traces.errors import InputError

ROOT = Path(__file__).parents[2]


def readme_lines() -> list[str]:
    found = re.search(r"```python\n(from simulator import.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert found
    return found[1].strip().splitlines()


@pytest.fixture(scope="module")
def result() -> simulator.Result:
    *lines, last = readme_lines()
    names: dict[str, object] = {}
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        exec("\n".join(lines), names)
        shown = eval(last, names)
    finally:
        os.chdir(before)
    assert isinstance(shown, pd.DataFrame)
    assert shown["policy"].tolist() == ["none", "das"]
    assert shown["speedup"][1] > 2
    found = names["result"]
    assert isinstance(found, simulator.Result)
    return found


def test_a_result_shows_itself_in_a_line(result: simulator.Result) -> None:
    runs = result.to_pandas()
    assert repr(result) == (
        f"<Result of 512 rollouts in 1 RL step(s): none {runs.makespan_s[0]:.2f} s (1.000x), "
        f"das {runs.makespan_s[1]:.2f} s ({runs.speedup[1]:.3f}x); {len(result.about['warnings'])} warning(s) in about>"
    )


def test_every_table_is_a_data_frame(result: simulator.Result) -> None:
    for name in ("runs", "rl_steps", "rollouts", "steps", "acceptance"):
        frame = result.to_pandas(name)  # type: ignore[arg-type]
        assert list(frame.columns) == getattr(result, name).column_names
        assert len(frame) == getattr(result, name).num_rows > 0
    for name, words in (("comparison", "run a scenario with `compare`"), ("run", "'run' is unknown: use runs, ")):
        with pytest.raises(InputError, match=words):
            result.to_pandas(name)  # type: ignore[arg-type]


def test_names_are_imported_when_they_are_used() -> None:
    code = """
import sys, simulator
assert not {"numba", "numpy", "pyarrow", "pydantic"} & set(sys.modules), sorted(sys.modules)
assert set(simulator.__all__) <= set(dir(simulator))
import simulator.replay
from simulator import Result, Scenario, load_profile, load_trace, run
assert callable(run) and run is simulator.run is simulator.replay.run
assert load_profile("h100-llama-3.1-8b-published").kind and load_trace(sys.argv[1]).steps
"""
    trace = ROOT / "traces/data/countdown.parquet"
    subprocess.run([sys.executable, "-c", code, str(trace)], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        simulator.walk  # noqa: B018
