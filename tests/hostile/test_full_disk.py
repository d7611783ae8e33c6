"""A disk without room, for every command that writes: one line that names the output, the old one stays, nothing is left."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hostile.cases import run
from tests.hostile.writers import Writer, fill, writers

ROOM_BYTES = 200
"""Of each file: enough to begin one, and for no output to be whole."""


@contextmanager
def no_room() -> Iterator[None]:
    """Files do not grow beyond ROOM_BYTES, of this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("writer", [one for one in writers() if not one.slow], ids=lambda one: one.name)
def test_the_old_output_stays_and_the_line_names_it(writer: Writer, tmp_path: Path) -> None:
    fill(tmp_path)
    made = run(tuple(writer.arguments(1)), tmp_path)
    assert made.code in (0, 4), made.err
    before = content(tmp_path)
    if writer.target == "sweep":
        (tmp_path / "sweep/cells.parquet").unlink()  # what has finished is not run again, and all else is written again
        before = content(tmp_path)
    with no_room():
        done = run(tuple(writer.arguments(2)), tmp_path)
    assert (done.code, done.out, done.err.count("\n")) == (3, "", 1), done.err
    assert "File too large" in done.err
    assert Path(writer.target).name in done.err
    assert ".tmp" not in done.err
    assert content(tmp_path) == before
