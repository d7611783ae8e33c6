"""Run the command line in this process, as a shell would see it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from simulator.cli import main, waiting
from traces.io import write
from traces.synthesis import synth

PROFILE = "h100-llama-3.1-8b-published"


class Shell(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shell]:
    """Return a function that runs `rolloutsim` with arguments."""
    monkeypatch.setattr(waiting, "SILENT_S", float("inf"))  # what is compiled depends on what ran before

    def run(*arguments: object) -> Shell:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = exit_.value.code
        return Shell(code if isinstance(code, int) else 1, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up trace: 6 prompts x 3 samples x 3 RL steps, about 80 tokens each."""
    path = tmp_path_factory.mktemp("traces") / "small.parquet"
    write(synth(prompts=6, samples=3, steps=3, median_tokens=80, max_tokens=400, seed=3), path, {"made": "for tests"})
    return path
