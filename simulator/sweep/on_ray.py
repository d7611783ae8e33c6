"""Workers on a Ray cluster: the object store of a node holds the trace and the drafts once for all of them."""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.sweep.axes import Cell
from simulator.sweep.grid import Study
from simulator.sweep.worker import Outcome, Worker
from traces.errors import InputError
from traces.trace import Trace


class Directory:
    """Where the drafts of a sweep are in the object store."""

    def __init__(self) -> None:
        self._known: dict[str, list[Any]] = {}

    def find(self, key: str) -> list[Any] | None:
        """Return a reference in a list, which keeps Ray from fetching it; None where there is none."""
        return self._known.get(key)

    def put(self, key: str, reference: list[Any]) -> None:
        """Note a reference."""
        self._known.setdefault(key, reference)


@dataclass(frozen=True)
class ObjectStore:
    """A store in Ray's object store. directory: handle of a Directory."""

    directory: Any

    def find(self, key: str) -> Any | None:
        """Return what is kept under a key; None where nothing is, or its node is lost."""
        import ray

        try:
            found = ray.get(self.directory.find.remote(key))
            return None if found is None else ray.get(found[0])
        except ray.exceptions.RayError:
            return None

    def put(self, key: str, value: Any) -> None:
        """Keep a value."""
        import ray

        self.directory.put.remote(key, [ray.put(value)])


@dataclass(frozen=True)
class Job:
    """What an actor needs before its first cells. folder: the one that relative paths of a scenario begin at."""

    study: Study
    traces: dict[str, Trace]
    directory: Any
    folder: str


class RayWorker:
    """A worker as an actor. It takes its job with its first cells, so that it can begin again elsewhere."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def run(self, job: list[Any], cells: Sequence[Cell]) -> list[Outcome]:
        """Run cells. job: a reference to a Job, in a list, which keeps Ray from fetching it again with each call."""
        if self._worker is None:
            import ray

            found: Job = ray.get(job[0])
            if Path(found.folder).is_dir():
                os.chdir(found.folder)
            sys.path.append(found.folder)
            self._worker = Worker(found.study, found.traces, ObjectStore(found.directory))
        return self._worker.run(cells)


@dataclass(frozen=True)
class Actors:
    """Workers that are actors of a cluster. job: a reference to theirs; loads: batches that each has."""

    handles: Sequence[Any]
    job: Any
    loads: list[int]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.handles)

    def submit(self, cells: Sequence[Cell]) -> "Future[list[Outcome]]":
        """Have cells run by the one that has the fewest."""
        number = self.loads.index(min(self.loads))
        self.loads[number] += 1
        future: Future[list[Outcome]] = self.handles[number].run.remote([self.job], cells).future()
        future.add_done_callback(lambda _: self._done(number))
        return future

    def _done(self, number: int) -> None:
        self.loads[number] -= 1


@contextmanager
def actors(study: Study, traces: dict[str, Trace], count: int | None, address: str | None) -> Iterator[Actors]:
    """So many actors, each on a processor of its own (None: as many as the cluster has), which end with the block.

    address: of a running cluster; None: the one that RAY_ADDRESS names, or one of this machine alone. An actor whose node is lost
    begins again on another one, and so do its cells. Raises InputError where there is no such cluster, and where Ray gives up.
    """
    ray = _ray()
    try:
        ray.init(
            address, log_to_driver=False, logging_level="error", include_dashboard=False if address is None else None
        )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({_line(error)}): start one with `ray start`"
        ) from None
    try:
        have = int(ray.cluster_resources().get("CPU", 0))
        if (count or 1) > have:
            raise InputError(f"--workers {count}: the Ray cluster has {have} processors: give no more")
        plain = {name: Trace(trace.table, trace.source, trace.sha256) for name, trace in traces.items()}
        job = ray.put(Job(study, plain, ray.remote(num_cpus=0)(Directory).remote(), str(Path.cwd())))
        remote = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(RayWorker)
        handles = [remote.remote() for _ in range(count or have)]
        yield Actors(handles, job, [0] * len(handles))
    except ray.exceptions.RayError as error:
        raise InputError(
            f"Ray gave up ({_line(error)}): run the same command again, what has finished is kept"
        ) from None
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("--on ray needs Ray: pip install 'rolloutsim[ray]', or leave it out") from None
    return ray


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
