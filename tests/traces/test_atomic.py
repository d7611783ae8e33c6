"""Files and folders are replaced as a whole, by writers that are killed at any moment, too."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from traces import atomic
from traces.atomic import replacing, replacing_folder
from traces.errors import InputError

PARTS = 6
WRITER = """
import sys, itertools
from pathlib import Path
from traces.atomic import replacing, replacing_folder
target, count = Path(sys.argv[1]), int(sys.argv[2])
print("begun", flush=True)
for number in itertools.count(int(sys.argv[3])):
    if target.suffix:
        with replacing(target) as file:
            for _ in range(count):
                file.write(b"%d\\n" % number)
    else:
        with replacing_folder(target) as folder:
            for part in range(count):
                (folder / f"{part}.txt").write_text(str(number))
"""


def killed(target: Path, first: int, after_s: float) -> None:
    """Have a process write version after version, from `first` on, and kill it."""
    arguments = [sys.executable, "-c", WRITER, str(target), str(PARTS), str(first)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)


def whole(target: Path) -> set[str]:
    """The versions that a target holds."""
    if target.suffix:
        lines = target.read_text().splitlines()
        assert len(lines) == PARTS
        return set(lines)
    assert {path.name for path in target.iterdir()} == {"mine.txt", *(f"{part}.txt" for part in range(PARTS))}
    assert (target / "mine.txt").read_text() == "kept"
    return {path.read_text() for path in target.glob("[0-9].txt")}


@pytest.mark.parametrize("name", ["table.txt", "results"])
def test_a_writer_killed_at_any_moment_leaves_one_version(name: str, tmp_path: Path) -> None:
    target, moments = tmp_path / name, random.Random(4)
    if target.suffix:
        target.write_text("0\n" * PARTS)
    else:
        target.mkdir()
        (target / "mine.txt").write_text("kept")
        with replacing_folder(target) as folder:
            for part in range(PARTS):
                (folder / f"{part}.txt").write_text("0")
    for round_ in range(15):
        killed(target, 1000 * round_, moments.uniform(0.0, 0.05))
        assert len(whole(target)) == 1


@pytest.mark.parametrize("name", ["table.txt", "results"])
def test_what_a_killed_writer_left_goes_with_the_next(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / name
    for round_ in range(12):
        killed(target, round_, 0.02 + round_ / 1000)
    monkeypatch.setattr(atomic, "YOUNG_S", 0)
    with (replacing if target.suffix else replacing_folder)(target) as held:
        beside = [path for path in tmp_path.iterdir() if path != target]
        assert len(beside) == 1, "the one that is being written"
        assert held is not None
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_writer_that_lives_keeps_its_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "YOUNG_S", 0)
    with replacing(tmp_path / "a.txt") as first:
        first.write(b"first")
        with replacing(tmp_path / "a.txt") as second:
            second.write(b"second")
        assert (tmp_path / "a.txt").read_bytes() == b"second"
    assert (tmp_path / "a.txt").read_bytes() == b"first"


def test_a_folder_that_cannot_be_renamed_gets_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    before = tmp_path.stat().st_ino
    with replacing_folder(Path()) as folder:
        (folder / "new.txt").write_text("new")
    assert tmp_path.stat().st_ino == before
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "new.txt"}


def test_folders_of_others_stay(tmp_path: Path) -> None:
    target = tmp_path / "out"
    (target / "figures" / "old").mkdir(parents=True)
    (target / "figures" / "old" / "a.png").write_bytes(b"png")
    (target / "link").symlink_to("nowhere")
    with replacing_folder(target) as folder:
        (folder / "runs.parquet").write_bytes(b"new")
    assert (target / "figures" / "old" / "a.png").read_bytes() == b"png"
    assert (target / "link").is_symlink()
    with (
        pytest.raises(InputError, match="figures: is a folder where a file belongs"),
        replacing_folder(target) as folder,
    ):
        (folder / "figures").write_bytes(b"a file")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_devices_are_no_files_to_replace() -> None:
    with pytest.raises(InputError, match="/dev/null: is a device"), replacing(Path("/dev/null")):
        pass
    assert not Path("/dev/null").is_file()


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with replacing_folder(target) as folder:
        (folder / "a").write_text("old")

    def fail() -> None:
        with replacing_folder(target) as folder:
            (folder / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


TOGETHER = """
import sys
from pathlib import Path
from traces.atomic import replacing, replacing_folder
folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(count):
    if name == "results":
        with replacing_folder(folder) as scratch:
            for part in ("a.txt", "b.txt"):
                (scratch / part).write_text(str(number))
    else:
        with replacing(folder / name) as file:
            file.write(str(number).encode())
        assert (folder / name).read_text() == str(number), "nobody else writes it"
"""


def test_writers_of_one_folder_lose_nothing_of_each_other(tmp_path: Path) -> None:
    """Two replace it as a whole, two write a file in it, all at once."""
    folder, count = tmp_path / "out", 150
    folder.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(folder), name, str(count)], env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        for name in ("results", "results", "page.html", "timeline.pftrace")
    ]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(
        ("a.txt", "b.txt", "page.html", "timeline.pftrace"), str(count - 1)
    )
    assert list(tmp_path.iterdir()) == [folder]
