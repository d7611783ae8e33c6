"""Compiled functions, and where they are kept between runs.

Numba's own cache looks at a function's file alone: after a change in a function that it calls from another file, it would go on
running the old code. Here a function is kept under a digest of all that it is made of: its own code and, by name, the
compiled functions, constants and layouts that it reads, and what those read. A change has only those functions compiled
anew that it can change, and nobody else's numba is touched.
"""

import hashlib
import importlib
import inspect
import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, cast

import numba
from numba.core import caching
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.registry import CPUDispatcher
from numba.core.runtime.nrt import rtsys

from simulator import progress

F = TypeVar("F", bound=Callable[..., Any])

jit: Any = numba  # its annotations refuse valid calls
serialize: Any = importlib.import_module("numba.core.serialize")  # and these are missing

KEPT = 4
"""Versions of one function whose machine code is kept."""
PART_DIGITS = len(uuid.uuid4().hex)
YOUNG_S = 60
"""What is younger may be being written."""
OPTIONS = {"nopython": True, "error_model": "numpy", "no_cfunc_wrapper": True}
"""Divisions by zero follow IEEE 754, as numpy's do; nobody calls from C."""
HELPER = """
import importlib, os, pickle, sys, threading
module, name, signature = pickle.load(sys.stdin.buffer)
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()  # nobody waits any more
getattr(importlib.import_module(module), name).compile(signature)
"""


def entry(function: F) -> F:
    """Compile a function that Python calls when it is first called, or load what an earlier run compiled.

    Other threads go on while it runs.
    """
    return _kept(function, nogil=True)


def compiled(function: F) -> F:
    """Compile a function that compiled code calls, with the first that calls it, or load what an earlier run compiled."""
    made: Any = _kept(function, no_cpython_wrapper=True)
    if isinstance(made, Dispatcher):
        made.__class__ = _Inner
    return cast(F, made)


def cache_folder() -> Path:
    """Where machine code is kept: numba's own folder where one is set, else the user's cache."""
    chosen = jit.config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen).expanduser() / "rolloutsim"


@contextmanager
def compiling_elsewhere(
    function: Callable[..., Any], *examples: Any, parts: Sequence[tuple[Any, ...]] = ()
) -> Iterator[Callable[[], None]]:
    """Have an entry compiled for such arguments by another process meanwhile, unless it is kept already.

    Gives a function that waits for it and loads it. Where nothing can be kept, that one compiles. parts: functions that it calls
    late, and examples of their arguments: who waits compiles them, and the other process loads them when it comes to them.
    """
    if not isinstance(function, Dispatcher):  # NUMBA_DISABLE_JIT is set
        yield lambda: None
        return
    signature = tuple(jit.typeof(example) for example in examples)
    cache: Any = function.__dict__["_cache"]

    def load() -> None:
        function.compile(signature)

    if not sys.executable or not cache.lacks(signature):
        yield load
        return
    with _helper(function.py_func.__module__, function.py_func.__name__, signature) as helper:

        def wait_and_load() -> None:
            progress.begin()
            for part, *its in parts:
                if helper.poll() is None:
                    part.compile(tuple(jit.typeof(example) for example in its))
            helper.wait()
            progress.end()
            load()

        yield wait_and_load


def digest_of(function: Callable[..., Any]) -> str:
    """Digest of all that a compiled function is made of, how it is compiled included; hexadecimal."""
    found = hashlib.sha256()
    _add(function, found, set())
    return found.hexdigest()[:16]


@contextmanager
def _helper(*what: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that may import what this one may (-P: no more), is told what to compile, and ends with the block or this one."""
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, "-P", "-c", HELPER], env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, bufsize=0,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                pickle.dump(what, process.stdin)
            yield process
        finally:
            process.kill()


def _kept(function: F, **options: bool) -> F:
    made: Any = jit.jit(**OPTIONS, **options)(function)
    if made is not function:  # as it is where NUMBA_DISABLE_JIT is set
        made._cache = _Cache(made)
    return cast(F, made)


class _Inner(CPUDispatcher):
    """A function without what Python needs to call it, which is a third of the time that compiling takes.

    Where Python does call it, a test or somebody who looks into it, it is compiled again as a whole, and not kept.
    """

    @cached_property
    def _whole(self) -> Any:
        return jit.jit(**(self.targetoptions | {"no_cpython_wrapper": False}))(self.py_func)

    def __call__(self, *arguments: Any) -> Any:
        return self._whole(*arguments)


class _Cache(caching.NullCache):
    """Machine code of one function: a file for each signature and processor, none that two processes write differently.

    Files that are damaged or cannot be written cost a compilation, in this run or the next.
    """

    def __init__(self, made: Any) -> None:
        self._made = made
        module = Path(inspect.getfile(made.py_func)).stem
        self._name = f"{module}.{made.py_func.__qualname__}"

    @cached_property
    def _digest(self) -> str:
        """Not known before it is asked for: by then every function that this one calls is defined."""
        return digest_of(self._made)

    def _path(self, signature: Any) -> Path:
        machine = self._made.targetctx.codegen().magic_tuple()
        what = repr((signature, machine, numba.__version__, sys.implementation.cache_tag))
        key = hashlib.sha256(what.encode()).hexdigest()[:16]
        return cache_folder() / f"{self._name}-{self._digest}-{key}.code"

    def lacks(self, signature: Any) -> bool:
        """Whether it could be kept here, and is not."""
        path = self._path(signature)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return not path.exists() and os.access(path.parent, os.W_OK)
        return False

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)  # what loaded code may call; all else that numba has ready is for compiling
        with suppress(Exception):  # none there, or damaged
            rebuild: Any = CompileResult._rebuild
            return rebuild(target_context, *pickle.loads(self._path(sig).read_bytes()))
        progress.begin()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        progress.end()
        if data.lifted or data.library.has_dynamic_globals:
            return  # holds addresses of this process
        path = self._path(sig)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{uuid.uuid4().hex}")
            try:
                part.write_bytes(serialize.dumps(data._reduce()))
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)  # of a disk that is full
            self._forget_old()

    def _forget_old(self) -> None:
        """Delete all but the last few versions, and what killed processes had begun."""
        for part in cache_folder().glob(f"{self._name}-*.{'?' * PART_DIGITS}"):
            if time.time() - part.stat().st_mtime > YOUNG_S:
                part.unlink(missing_ok=True)
        files: dict[str, list[Path]] = {}
        for path in sorted(cache_folder().glob(f"{self._name}-*.code"), key=lambda path: -path.stat().st_mtime):
            files.setdefault(path.stem.split("-")[-2], []).append(path)
        for version in list(files)[KEPT:]:
            for path in files[version]:
                path.unlink(missing_ok=True)


def _add(value: Any, found: "hashlib._Hash", seen: set[int]) -> None:
    """Add what compiled code makes of a value that it names."""
    if isinstance(value, Dispatcher):
        found.update(repr(sorted(value.targetoptions.items())).encode())
        value = value.py_func
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, FunctionType):
        _add_code(value.__code__, found, value.__doc__)
        for name in value.__code__.co_names:
            if name in value.__globals__:
                found.update(name.encode())
                _add(value.__globals__[name], found, seen)
        for cell in value.__closure__ or ():
            _add(cell.cell_contents, found, seen)
    elif isinstance(value, ModuleType):
        found.update(value.__name__.encode())
    elif hasattr(value, "_defn"):  # an intrinsic emits code itself, with help from its module
        found.update(Path(inspect.getfile(value._defn)).read_bytes())
    else:
        found.update(repr(value).encode())


def _add_code(code: CodeType, found: "hashlib._Hash", docstring: str | None = None) -> None:
    """Add what is executed: no names of variables, no lines, no docstring."""
    found.update(code.co_code + repr(code.co_names).encode())
    first = 1 if code.co_consts[:1] == (docstring,) else 0
    for constant in code.co_consts[first:]:
        if isinstance(constant, CodeType):
            _add_code(constant, found)
        else:
            found.update(repr(constant).encode())
