"""Replace a file, or a folder, as a whole: readers see the old content or the new, never a part, even if the writer is killed."""

import ctypes
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from traces.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows, where what a killed writer left has to be removed by hand
    fcntl = None  # type: ignore[assignment]

YOUNG_S = 60
"""What is younger may belong to a writer that has not locked it yet."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What is told where nothing more can be written."""
AT_CWD, RENAME_EXCHANGE = -100, 2


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, and vanishes when it does not.

    Written beside `path`, flushed to disk, then renamed. Raises InputError where the folder cannot be written to.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder: give the name of a file")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is a device or pipe, no file to replace: give the name of a file")
    scratch = _scratch(path)
    try:
        _remove_left(path)
        with _staying(path.parent):
            file = scratch.open("xb")
    except OSError as error:
        if _name(error, path):
            raise
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}): create the folder or choose another") from error
    try:
        with file:
            _lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            with _staying(path.parent):
                scratch.replace(path)
    except BaseException as error:
        scratch.unlink(missing_ok=True)
        _name(error, path)
        raise
    _sync_folder(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder whose content becomes that of `folder` when the block ends well, and vanishes when it does not.

    Written beside `folder` and put in its place by one rename; what else `folder` held stays in it. A folder that cannot be
    renamed (the working folder, a mount, one whose parent is read-only) gets the files one by one.
    Raises InputError where nothing can be written.
    """
    folder = folder.resolve()
    fixed = _is_fixed(folder)
    named = folder / "writing" if fixed else folder
    scratch = _scratch(named)
    try:
        _remove_left(named)
        scratch.mkdir(parents=True)
        held = os.open(scratch, os.O_RDONLY)
    except OSError as error:
        if _name(error, folder):
            raise
        reason = error.strerror or str(error)
        raise InputError(f"{folder}: cannot be written ({reason}): choose another folder") from error
    try:
        _lock(held, shared=True)
        yield scratch
        for path in scratch.iterdir():
            if (folder / path.name).is_dir():
                raise InputError(
                    f"{folder / path.name}: is a folder where a file belongs: remove it, or choose another folder"
                )
            _sync(path)
        _sync_folder(scratch)
        if fixed:
            for path in scratch.iterdir():
                path.replace(folder / path.name)
        else:
            _put(scratch, folder)
    except OSError as error:
        inside = Path(error.filename).name if str(error.filename).startswith(str(scratch)) else ""
        _name(error, folder / inside if inside != scratch.name else folder)
        raise
    finally:
        os.close(held)
        shutil.rmtree(scratch, ignore_errors=True)
    _sync_folder(folder.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have errors of the block that say that no more can be written, and not where, name a file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            _name(error, path)
        raise


def _name(error: BaseException, path: Path) -> bool:
    """Where an error says that no more can be written, which may come without a name, have it name the file; whether it does."""
    if not isinstance(error, OSError) or error.errno not in FULL:
        return False
    error.filename, error.strerror = str(path), os.strerror(error.errno)
    return True


def _put(scratch: Path, folder: Path) -> None:
    """Have a new folder take the place of the old one at once, and keep what else that holds by then."""
    if not folder.exists():
        with suppress(OSError):  # another has made it meanwhile
            scratch.rename(folder)
            return
    with _staying(folder, replaced=True):
        _keep_others(folder, scratch)
        shutil.copymode(folder, scratch)
        _exchange(scratch, folder)


@contextmanager
def _staying(folder: Path, replaced: bool = False) -> Iterator[None]:
    """Nobody else puts another folder in the place of this one meanwhile; replaced: nor gives a file in it its name."""
    while fcntl is not None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX if replaced else fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                yield
                return
        finally:
            os.close(handle)
    yield


def _is_fixed(folder: Path) -> bool:
    """Whether nothing else can take the folder's place."""
    if not folder.exists():
        return False
    with suppress(OSError):
        if folder.samefile(Path.cwd()):
            return True
    return folder.is_mount() or not os.access(folder.parent, os.W_OK)


def _keep_others(folder: Path, scratch: Path) -> None:
    """Link what the old folder has and the new one has not."""
    for path in folder.iterdir():
        if (scratch / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, scratch / path.name, symlinks=True, copy_function=_link)
        else:
            _link(str(path), str(scratch / path.name))


def _link(source: str, target: str) -> None:
    """A second name of the same file; a copy where the file system knows no such thing."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(new: Path, old: Path) -> None:
    """Have two folders take each other's names at once, or, where the system cannot, one after the other."""
    with suppress(AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(AT_CWD, os.fsencode(new), AT_CWD, os.fsencode(old), RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(old))
    away = _scratch(old)
    old.rename(away)
    new.rename(old)
    shutil.rmtree(away, ignore_errors=True)


def _scratch(path: Path) -> Path:
    return path.parent / f".{path.name[:100]}.{secrets.token_hex(4)}.tmp"


def _lock(handle: int, shared: bool = False) -> None:
    """Hold a scratch for as long as this process lives: what nobody holds was left by one that was killed.

    shared: with those who write a file in it.
    """
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _remove_left(path: Path) -> None:
    """Remove what killed writers of `path` left beside it."""
    if fcntl is None:
        return
    start, length = f".{path.name[:100]}.", len(_scratch(path).name)
    for left in list(path.parent.iterdir()) if path.parent.is_dir() else ():
        if not (left.name.startswith(start) and left.name.endswith(".tmp") and len(left.name) == length):
            continue
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime < YOUNG_S:
                continue
            handle = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()
            finally:
                os.close(handle)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot sync a folder
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
