"""What runs cells: one process with the traces in memory, and drafts that it keeps."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulator.draft_cache import DraftCache, Store
from simulator.replay import run
from simulator.sweep.axes import Cell
from simulator.sweep.grid import Study
from traces.errors import InputError
from traces.trace import Trace


@dataclass(frozen=True)
class Outcome:
    """What a cell came to: rows of `results.RUNS`, why systems are left out, by name, or why it cannot be at all.

    seconds, cpu_s: that it took, and those of all processors.
    """

    cell: Cell
    seconds: float
    cpu_s: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    reason: str | None = None


class Worker:
    """Runs cells of a study. traces: by the name that a scenario has for them; store: where workers find each other's drafts."""

    def __init__(self, study: Study, traces: Mapping[str, Trace], store: Store) -> None:
        self._study, self._traces = study, traces
        self._cache = DraftCache([*traces.values()], store)

    def run(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Run one after another; one that cannot be run says why."""
        return [self._run(cell) for cell in cells]

    def _run(self, cell: Cell) -> Outcome:
        begun_s, cpu_s = time.perf_counter(), time.process_time()
        rows, left_out, reason = list[dict[str, Any]](), dict[str, str](), None
        try:
            scenario = self._study.scenario(cell)
            result = run(scenario, self._traces[scenario.trace], self._cache)
        except InputError as error:
            reason = str(error)
        else:
            found = result.runs.to_pylist()
            rows = [row for row in found if not self._study.is_base(row, found)]
            left_out = dict(result.about["left_out"])
        return Outcome(cell, time.perf_counter() - begun_s, time.process_time() - cpu_s, rows, left_out, reason)
