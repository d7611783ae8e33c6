"""A sweep run in this process, without the command line."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from simulator.draft_cache import Nowhere
from simulator.sweep.axes import Cell, parse_axes
from simulator.sweep.grid import Study
from simulator.sweep.search import Search, objective
from simulator.sweep.sweep import Asked, Swept, sweep
from simulator.sweep.table import cells_table
from simulator.sweep.worker import Outcome, Worker
from traces.io import write
from traces.synthesis import synth
from traces.trace import Trace

PROFILE = "h100-llama-3.1-8b-published"
TIMES = ["wall_s", "cell_s", "cell_cpu_s"]


@dataclass
class Inline:
    """One worker, at once; stop: cells after which it raises KeyboardInterrupt."""

    worker: Worker
    stop: int = 10**9
    count: int = 1

    def submit(self, cells: Sequence[Cell]) -> "Future[list[Outcome]]":
        if self.stop < len(cells):
            raise KeyboardInterrupt
        self.stop -= len(cells)
        future: Future[list[Outcome]] = Future()
        future.set_result(self.worker.run(cells))
        return future


def small(path: Path, **changes: int) -> Path:
    """A made-up trace: 6 prompts x 3 samples x 3 RL steps, about 80 tokens each."""
    settings = {"prompts": 6, "samples": 3, "steps": 3, "median_tokens": 80, "max_tokens": 400, "seed": 3} | changes
    write(synth(**settings), path, {"made": "for tests"})
    return path


def document(trace: Path, **more: Any) -> dict[str, Any]:
    return {"trace": str(trace), "profile": PROFILE, "policies": ["none"], "engine": {"max_num_seqs": 4}} | more


def scenario(trace: Path, **more: Any) -> Path:
    path = trace.parent / "scenario.yaml"
    path.write_text(yaml.safe_dump(document(trace, **more)))
    return path


def asked(
    settings: dict[str, Any], *keys: str, baseline: str | None = None, search: Search | None = None, aim: str = "makespan_s"
) -> Asked:  # fmt: skip
    return Asked(Study(settings, baseline), parse_axes(keys), objective(aim, False), search)


def swept(what: Asked, folder: Path, stop: int = 10**9) -> tuple[Swept, int]:
    """The sweep, and how many cells it ran."""
    ran = 0

    @contextmanager
    def start(study: Study, traces: dict[str, Trace]) -> Iterator[Inline]:
        nonlocal ran
        inline = Inline(Worker(study, traces, Nowhere()), stop)
        yield inline
        ran = stop - inline.stop

    folder.mkdir(exist_ok=True)
    return sweep(what, folder, start, lambda progress: None), ran


def table(what: Asked, found: Swept) -> pa.Table:
    """Its table, without what no two runs have in common."""
    return cells_table(what.axes, found.outcomes, found.about).drop_columns(TIMES)
