"""Workers on this machine: processes that share the trace, and each other's drafts through files."""

import mmap
import multiprocessing
import os
import pickle
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.draft_cache import Store
from simulator.sweep.axes import Cell
from simulator.sweep.grid import Study
from simulator.sweep.worker import Outcome, Worker
from traces.errors import InputError
from traces.trace import Trace

START = "fork" if sys.platform == "linux" else "spawn"
"""A forked process has the trace already; elsewhere than on Linux forking is not safe."""


@dataclass(frozen=True)
class Files:
    """A store in a folder: arrays are mapped into memory, so that processes have them once."""

    folder: Path

    def find(self, key: str) -> Any | None:
        """Return what is kept under a key, None where nothing is."""
        try:
            with (self.folder / key).open("rb") as file:
                whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):
            return None
        sizes = pickle.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
        parts, at = list[memoryview](), 8 + int.from_bytes(whole[:8], "little")
        for size in sizes:
            at = -(-at // 64) * 64
            parts.append(whole[at : at + size])
            at += size
        return pickle.loads(parts[0], buffers=parts[1:])

    def put(self, key: str, value: Any) -> None:
        """Keep a value, as a whole or not at all."""
        buffers = list[pickle.PickleBuffer]()
        parts = [memoryview(pickle.dumps(value, 5, buffer_callback=buffers.append)), *(one.raw() for one in buffers)]
        head = pickle.dumps([part.nbytes for part in parts])
        scratch = self.folder / f".{key}.{secrets.token_hex(4)}"
        with suppress(OSError):  # a full disk costs drafting again, no more
            with scratch.open("wb") as file:
                file.write(len(head).to_bytes(8, "little") + head)
                for part in parts:
                    file.write(bytes(-file.tell() % 64))
                    file.write(part)
            scratch.replace(self.folder / key)
            return
        scratch.unlink(missing_ok=True)


@dataclass(frozen=True)
class Processes:
    """Workers that are processes of this machine."""

    count: int
    _pool: ProcessPoolExecutor

    def submit(self, cells: Sequence[Cell]) -> "Future[list[Outcome]]":
        """Have cells run by the next that is free."""
        return self._pool.submit(_run, cells)


@contextmanager
def processes(study: Study, traces: dict[str, Trace], count: int, folder: Path) -> Iterator[Processes]:
    """So many processes, which end with the block, at once where it ends early, and with this one, however it ends.

    folder: nobody else's, for drafts; it ends with the block, too. Raises InputError where a process was killed.
    """
    for trace in traces.values():
        _touch(trace)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(0o700)  # what is in it is unpickled
    pool = ProcessPoolExecutor(count, multiprocessing.get_context(START), _begin, (study, traces, Files(folder)))
    try:
        yield Processes(count, pool)
    except BrokenProcessPool:
        raise InputError(
            "a worker was killed, perhaps for want of memory: run the same command again, with fewer --workers"
        ) from None
    finally:
        for child in multiprocessing.active_children():
            child.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(folder, ignore_errors=True)


_worker: list[Worker] = []
"""In a worker's process: the worker."""


def _begin(study: Study, traces: dict[str, Trace], store: Store) -> None:
    """Make this process a worker, which leaves Ctrl-C to the one that started it, and ends when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker[:] = [Worker(study, traces, store)]


def _run(cells: Sequence[Cell]) -> list[Outcome]:
    return _worker[0].run(cells)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _touch(trace: Trace) -> None:
    """Have what is computed of a trace once computed before there are several processes."""
    _ = trace.prompt, trace.prompt_rank, trace.steps, trace.sample, trace.prompt_tokens, trace.offsets
    if trace.has_tokens:
        _ = trace.tokens
    if trace.has_prompts:
        _ = trace.prompt_token_ids_flat, trace.prompt_offsets
