"""Commands that write, killed at any moment: what they leave is whole or absent, and the next run is as if nothing had been.

python -m tests.hostile.kills [KILLS [SEED]]
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from tests.hostile.writers import Writer, fill, writers

COMMAND = [sys.executable, "-c", "from simulator.cli import command; command()"]
STEPPED = """
import os, signal, sys
left, here = int(sys.argv.pop(1)), os.getcwd()
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod"}

def hear(event, about):
    global left
    changes = event in CHANGES or (event == "open" and about[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if changes and isinstance(about[0], str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(about[0])).startswith(here):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hear)
from simulator.cli import command
try:
    command()
finally:
    print("left", left, file=sys.stderr)
"""
"""The command, killed right before it changes the working folder for the n-th time; says how many of n were left."""
SLOW = 4
"""A command that loads torch takes its turn every so many rounds."""


def kill(writer: Writer, number: int, folder: Path, after_s: float) -> bool:
    """Kill a command after so many seconds; returns whether it still ran."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*COMMAND, *writer.arguments(number)], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its workers
            return True
        assert process.returncode in (0, 4), process.stderr.read().decode()  # 4: beyond what the profile measured
    return False


def kill_before(writer: Writer, number: int, folder: Path, change: int) -> int:
    """Kill a command right before so many changes of the folder; returns how many it had made, all of them where it ended."""
    process = subprocess.run(
        [sys.executable, "-c", STEPPED, str(change), *writer.arguments(number)], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    if process.returncode == -signal.SIGKILL:
        return change - 1
    assert process.returncode in (0, 4), process.stderr
    return change - int(process.stderr.split()[-1])


@dataclass
class Tried:
    """What became of kills: how often each command was hit while it ran, how often it was tried, and what was wrong."""

    hit: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def try_kills(kills: int, seed: int, folder: Path, of: Sequence[Writer], found: Tried) -> None:
    """Kill commands, one after another; each must leave what is whole, and run as if nothing had been at the end."""
    draw, took = random.Random(seed), dict[Writer, float]()
    fill(folder)

    def check(writer: Writer, number: int) -> None:
        try:
            if (folder / writer.target).exists():
                writer.whole(folder / writer.target)
        except Exception as error:
            found.faults.append(f"{writer.name}, kill {number}: {type(error).__name__}: {error}")

    turns = (one for turn in range(kills) for one in of if not one.slow or turn % SLOW == 0)
    for number, writer in zip(range(kills), turns, strict=False):
        if writer not in took:  # once to its end
            started = time.monotonic()
            assert not kill(writer, number, folder, 600.0)
            took[writer] = time.monotonic() - started
            check(writer, number)
        found.tried[writer.name] += 1
        started = time.monotonic()
        if kill(writer, number, folder, draw.uniform(0.2, 1.0) * took[writer]):
            found.hit[writer.name] += 1
        else:  # it needs less than when it compiled
            took[writer] = time.monotonic() - started
        check(writer, number)
    for number, writer in enumerate(took, kills):
        assert not kill(writer, number, folder, 600.0), "it goes on as if nothing had been"
        assert (folder / writer.target).exists()
        check(writer, number)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        count, first = (int(sys.argv[1]) if len(sys.argv) > 1 else 500), (int(sys.argv[2]) if len(sys.argv) > 2 else 0)
        done = Tried()
        with suppress(KeyboardInterrupt):  # it then says what it has found
            try_kills(count, first, Path(scratch), writers(), done)
        for name, of_name in done.tried.items():
            print(f"{done.hit[name]:>4} of {of_name:>3}  {name}")
        print(
            f"{done.hit.total()} of {done.tried.total()} killed while they ran; {len(done.faults)} faults",
            *done.faults,
            sep="\n",
        )
        sys.exit(bool(done.faults))
