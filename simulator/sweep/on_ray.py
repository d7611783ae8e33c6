"""Workers on a Ray cluster: the object store of a node holds the trace and the drafts once for all of them."""

import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from simulator.sweep.axes import Cell
from simulator.sweep.grid import Study
from simulator.sweep.play import WorkerLostError
from simulator.sweep.worker import Outcome, Worker
from traces.errors import InputError
from traces.trace import Trace

NO_CLUSTER = "no Ray cluster answers there: start one with `ray start --head`"
ANSWERS_S = 5.0


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
    """A worker as an actor, which takes its job with its first cells."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def run(self, job: list[Any], cells: Sequence[Cell]) -> list[Outcome]:
        """Run cells. job: a reference to a Job, in a list, which keeps Ray from fetching it again with each call."""
        if self._worker is None:
            import ray

            found: Job = ray.get(job[0])
            if Path(found.folder).is_dir():
                os.chdir(found.folder)
            self._worker = Worker(found.study, found.traces, ObjectStore(found.directory))
        return self._worker.run(cells)


class Actors:
    """Workers that are actors of a cluster. job: a reference to theirs."""

    def __init__(self, handles: Sequence[Any], job: Any) -> None:
        self._handles, self._job = handles, job
        self._loads = dict.fromkeys(range(len(handles)), 0)
        self._lock = threading.Lock()  # Ray calls back in a thread of its own

    @property
    def count(self) -> int:
        """How many have not been lost."""
        return len(self._loads)

    def submit(self, cells: Sequence[Cell]) -> "Future[list[Outcome]]":
        """Have cells run by the one that has the fewest batches; InputError where none is left."""
        with self._lock:
            if not self._loads:
                raise InputError("every Ray worker was lost: see to the cluster, and run the same command again")
            number = min(self._loads, key=self._loads.__getitem__)
            self._loads[number] += 1
        told: Future[list[Outcome]] = Future()
        self._handles[number].run.remote([self._job], cells).future().add_done_callback(
            partial(self._done, number, told)
        )
        return told

    def _done(self, number: int, told: "Future[list[Outcome]]", found: "Future[list[Outcome]]") -> None:
        """Pass on what came of a batch; an actor that died, or whose node did, gets no more."""
        from ray.exceptions import ActorDiedError, ActorUnavailableError

        error = found.exception()
        lost = isinstance(error, ActorDiedError | ActorUnavailableError)
        with self._lock:
            if lost:
                self._loads.pop(number, None)
            elif number in self._loads:
                self._loads[number] -= 1
        if error is None:
            told.set_result(found.result())
        else:
            told.set_exception(WorkerLostError() if lost else error)


@contextmanager
def actors(study: Study, traces: dict[str, Trace], count: int | None, address: str | None) -> Iterator[Actors]:
    """So many actors, each on a processor of its own (None: as many as the cluster has), which end with the block.

    address: of a running cluster; None: the one that RAY_ADDRESS names, or one of this machine alone. Cells of an actor that is
    lost go to others. Raises InputError where there is no such cluster, and where Ray gives up.
    """
    ray = _ray()
    _check_answers(address)
    try:
        _begin(ray, address)
        have = int(ray.cluster_resources().get("CPU", 0))
        if (count or 1) > have:
            raise InputError(f"--workers {count}: the Ray cluster has {have} processors: give no more")
        plain = {name: Trace(trace.table, trace.source, trace.sha256) for name, trace in traces.items()}
        job = ray.put(Job(study, plain, ray.remote(num_cpus=0)(Directory).remote(), str(Path.cwd())))
        remote = ray.remote(num_cpus=1)(RayWorker)
        yield Actors([remote.remote() for _ in range(count or have)], job)
    except ray.exceptions.RayError as error:
        raise InputError(
            f"Ray gave up ({_line(error)}): run the same command again, what has finished is kept"
        ) from None
    finally:
        ray.shutdown()


def _begin(ray: Any, address: str | None) -> None:
    """Connect to the cluster, or begin one; InputError where there is none."""
    dashboard = False if address is None else None
    try:
        with _own_signals():
            ray.init(address, log_to_driver=False, logging_level="error", include_dashboard=dashboard)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise InputError(f"--address {address}: {NO_CLUSTER} ({_line(error)})") from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Leave SIGTERM to whom it was left before: in the block Ray takes it, shows a stack of its own, and exits with 15."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, terminated = signal.getsignal(signal.SIGTERM), False
    try:
        yield
    except SystemExit:
        terminated = True
    finally:
        signal.signal(signal.SIGTERM, before)
    if terminated:
        signal.raise_signal(signal.SIGTERM)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("--on ray needs Ray: pip install 'rolloutsim[ray]', or leave it out") from None
    return ray


def _check_answers(address: str | None) -> None:
    """Raise InputError where nothing listens at HOST:PORT: Ray itself would end this process after half a minute."""
    host, colon, port = (address or "").rpartition(":")
    if "://" in host:
        raise InputError(
            f"--address {address}: a sweep is no Ray client: run it on a node of the cluster, with HOST:PORT or auto"
        )
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), ANSWERS_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"--address {address}: {NO_CLUSTER} ({_line(error)})") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
