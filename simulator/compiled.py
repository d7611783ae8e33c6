"""Compiled functions, and where they are kept between runs.

Numba's own cache looks at a function's file alone: after a change in a function that it calls from another file, it would go on
running the old code. Here a function is kept under a digest of all that it is made of: its own code and, by name, the
compiled functions, constants and layouts that it reads, and what those read. A change has only those functions compiled
anew that it can change, and nobody else's numba is touched.
"""

import hashlib
import inspect
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, cast, overload

import numba
from numba.core import caching
from numba.core.dispatcher import Dispatcher

F = TypeVar("F", bound=Callable[..., Any])

jit: Any = numba  # its annotations refuse valid calls

KEPT = 4
"""Digests of one function whose machine code is kept."""


@overload
def compiled(function: F) -> F: ...
@overload
def compiled(*, nogil: bool = False) -> Callable[[F], F]: ...
def compiled(function: F | None = None, *, nogil: bool = False) -> F | Callable[[F], F]:
    """Compile a function when it is first called, or load what an earlier run compiled.

    Divisions by zero follow IEEE 754, as numpy's do. nogil: let other threads run meanwhile.
    """
    if function is None:
        return lambda later: _dispatcher(later, nogil)
    return _dispatcher(function, nogil)


def cache_folder() -> Path:
    """Where machine code is kept: numba's own folder where one is set, else the user's cache."""
    chosen = jit.config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen).expanduser() / "rolloutsim"


def digest_of(function: Callable[..., Any]) -> str:
    """Digest of all that a compiled function is made of, hexadecimal."""
    found = hashlib.sha256()
    _add(function, found, set())
    return found.hexdigest()[:16]


def _dispatcher(function: F, nogil: bool) -> F:
    made: Any = jit.njit(nogil=nogil, error_model="numpy")(function)
    if made is not function:  # as it is where NUMBA_DISABLE_JIT is set
        made._cache = _Cache(function)
    return cast(F, made)


class _Cache(caching.NullCache):
    """Finds its file when it is first asked: by then every function that this one calls is defined."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._found: Any = None

    @property
    def _kept(self) -> Any:
        if self._found is None:
            try:
                kept: Any = _Kept
                self._found = kept(self._function)
            except (OSError, RuntimeError):
                self._found = caching.NullCache()  # nowhere to keep anything: compile in every run
        return self._found

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return self._kept.load_overload(sig, target_context)
        except Exception:  # whatever is wrong with the files, they can be made anew
            with suppress(OSError):
                self._kept.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):  # a full disk costs a compilation in the next run, not this one
            self._kept.save_overload(sig, data)
            _forget_old(self._function, self._kept.cache_path)


class _Locator(caching._CacheLocator):
    """Names a function's files by its digest."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file = file  # numba names it in warnings
        self._digest = digest_of(function)

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return self._digest

    def get_disambiguator(self) -> str:
        return self._digest

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":
        found = cls(py_func, py_file)
        make: Any = found.ensure_cache_path
        make()
        return found


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012


class _Kept(caching.FunctionCache):
    _impl_class = _Implementation


def _forget_old(function: Callable[..., Any], folder: str | None) -> None:
    """Delete what earlier versions of a function left, all but the last few."""
    if folder is None:
        return
    module = Path(inspect.getfile(function)).stem
    kept = Path(folder).glob(f"{module}.{function.__qualname__}-*.nbi")
    for index in sorted(kept, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        for path in Path(folder).glob(f"{index.stem}.*"):
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
