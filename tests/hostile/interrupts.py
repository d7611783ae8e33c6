"""Commands that are interrupted at any moment: exit 130 within a second, one line, outputs whole, and no process left.

python -m tests.hostile.interrupts [INTERRUPTS [SEED [WORD]]]
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT
from tests.hostile.kills import COMMAND
from tests.hostile.writers import POLICIES, PROFILE, TIMED, Writer, fill, writers
from traces import io
from traces.synthesis import synth

WITHIN_S = 1.0
LEFT_S = 90.0
"""Ray's agents look once in half a minute whether the process that began them is there."""
TAG = "ROLLOUTSIM_INTERRUPTED"
"""An environment variable, by which what a command starts is known."""
COUNTDOWN = ROOT / "traces/data/countdown.parquet"
TOLD = {signal.SIGINT: "error: interrupted", signal.SIGTERM: "error: terminated", signal.SIGHUP: "error: hung up"}
PROGRESS = ("compiling for this machine", "compiled in", " cells")
"""What a line that was on stderr before may hold."""
READERS = (
    "--help", "policies", "systems", "catalogue", "profile list", f"profile show {PROFILE}", "trace validate trace.parquet",
    "trace describe trace.parquet", "acceptance trace.parquet", f"replay trace.parquet {POLICIES} --compare",
    f"advise trace.parquet --profile {PROFILE} --max-num-seqs 8", f"validate {TIMED} --steps",
    f"validate log --profile {PROFILE} --model llama-3.1-8b",
)  # fmt: skip
SCORED = "acceptance long.parquet --json --match scored --shape tree"
LONG = (
    f"replay long.parquet {POLICIES} --max-num-seqs 2", SCORED,
    f"replay {COUNTDOWN} --system all --model qwen3-8b --device h100 --max-num-seqs 64 --replicas 2",
    f"advise {COUNTDOWN} --profile {PROFILE}", "sweep scenario.yaml engine.max_num_seqs=1..300 policy=none,fixed:2 --out s",
    "sweep scenario.yaml engine.max_num_seqs=1..300 policy=none,fixed:2 --search optuna --trials 300 --out o --workers 2",
    "sweep scenario.yaml engine.max_num_seqs=1..300 policy=none,fixed:2 --on ray --workers 2 --out r",
)  # fmt: skip
"""Commands that run for long: in compiled code, in workers, in those of Ray."""
LONG_S = 15.0


@dataclass(frozen=True)
class Command:
    """Arguments, what they write, if anything; cold: with nothing compiled. lasts_s: how long it runs, at most."""

    line: str
    writes: Writer | None = None
    cold: bool = False
    lasts_s: float = LONG_S

    @property
    def name(self) -> str:
        """Short, for a table."""
        return f"{self.line[:60]}{' (cold)' if self.cold else ''}"


class Ended(NamedTuple):
    """How a command ended, how long after the signal, what it said, and which processes of its were there LEFT_S later."""

    code: int
    seconds: float
    told: str
    left: list[int]


def interrupt(
    line: str, folder: Path, after_s: float, sent: Sequence[signal.Signals], cold: bool = False
) -> Ended | None:
    """Send a process signals, one after another, so many seconds after it took them over; None where it had ended by then."""
    with tempfile.TemporaryDirectory() as empty:
        more = {"PYTHONPATH": str(ROOT), TAG: empty} | ({"XDG_CACHE_HOME": empty} if cold else {})
        with subprocess.Popen(
            [*COMMAND, *line.split()], cwd=folder, env=os.environ | more, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, start_new_session=True, preexec_fn=_hears,
        ) as process:  # fmt: skip
            while process.poll() is None and not _listens(process.pid):
                time.sleep(0.001)
            try:
                process.wait(after_s)
            except subprocess.TimeoutExpired:
                began = time.monotonic()
                for one in sent:
                    process.send_signal(one)
                    time.sleep(0.02 * (one is not sent[-1]))
                code = process.wait(60)
                seconds = time.monotonic() - began
                assert process.stderr is not None
                told = process.stderr.read()
                return Ended(code, seconds, told, _left(empty))
    return None


def _left(tag: str) -> list[int]:
    """Processes that a command has started, or what it started, and that do not end within LEFT_S."""
    give_up_s = time.monotonic() + LEFT_S
    while True:
        time.sleep(0.1)
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{TAG}={tag}".encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
        if not found or time.monotonic() > give_up_s:
            return found


def _listens(pid: int) -> bool:
    """Whether a process has taken SIGTERM over: what comes before is the interpreter, which starts."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _hears() -> None:
    """Ctrl-C is ignored by what a shell runs in the background, and so would what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def fault(ended: Ended, sent: signal.Signals) -> str:
    """What is wrong with how a command ended; empty where nothing is."""
    lines = [line for line in ended.told.splitlines() if not any(text in line for text in PROGRESS) or "kept" in line]
    if ended.code == 0 and "Traceback" not in ended.told:
        return ""  # it was done
    if ended.code != 128 + sent or len(lines) != 1 or not lines[0].startswith(TOLD[sent]):
        return f"exit {ended.code}: {ended.told[-600:]}"
    if ended.left:
        return f"left processes {ended.left}"
    return f"{ended.seconds:.2f} s" if ended.seconds > WITHIN_S else ""


def fill_long(folder: Path) -> None:
    """Write a trace that takes long: half a minute of compiled code for SCORED."""
    long = synth(prompts=16, samples=16, steps=2, median_tokens=20_000, max_tokens=60_000, seed=1)
    io.write(long, folder / "long.parquet", {"made": "for tests"})


def commands() -> Iterator[Command]:
    """All of them."""
    for one in writers():
        yield Command(one.command.replace("{n}", "1"), one, lasts_s=8.0 if one.slow else 2.5)
    for line in READERS:
        yield Command(line.replace("{n}", "1"), lasts_s=2.0)
    for line in LONG:
        yield Command(line.replace("{n}", "1"))
    yield Command(f"replay trace.parquet {POLICIES} --policy das".replace("{n}", "1"), cold=True)


def try_interrupts(
    count: int, seed: int, folder: Path, of: Sequence[Command]
) -> tuple[dict[str, list[float]], list[str]]:
    """Interrupt commands in turn, from when they begin on; returns seconds to the end by command, and faults."""
    draw, took, faults = random.Random(seed), dict[str, list[float]](), list[str]()
    fill(folder)
    fill_long(folder)
    for number in range(count):
        one, sent = of[number % len(of)], draw.choice((signal.SIGINT, signal.SIGINT, signal.SIGTERM))
        twice = [sent, sent] if draw.random() < 0.3 else [sent]
        after_s = draw.uniform(0.0, one.lasts_s)
        ended = interrupt(one.line, folder, after_s, twice, one.cold)
        if ended is None:
            continue
        took.setdefault(one.name, []).append(ended.seconds)
        if found := fault(ended, sent):
            faults.append(f"{one.name}, {sent.name} x {len(twice)} after {after_s:.2f} s: {found}")
        if one.writes is not None and (folder / one.writes.target).exists():
            one.writes.whole(folder / one.writes.target)
    return took, faults


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asked, first = (int(sys.argv[1]) if len(sys.argv) > 1 else 200), (int(sys.argv[2]) if len(sys.argv) > 2 else 0)
        chosen = [one for one in commands() if len(sys.argv) < 4 or sys.argv[3] in one.name]
        seconds, wrong = try_interrupts(asked, first, Path(scratch), chosen)
        for name, each in sorted(seconds.items(), key=lambda item: -max(item[1])):
            print(f"{len(each):>4} times, {max(each):5.2f} s at most  {name}")
        flat = sorted(second for each in seconds.values() for second in each)
        print(
            f"{len(flat)} of {asked} interrupted while they ran: median {flat[len(flat) // 2]:.2f} s, worst {flat[-1]:.2f} s"
        )
        print(f"{len(wrong)} faults", *wrong, sep="\n")
        sys.exit(bool(wrong))
