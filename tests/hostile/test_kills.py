"""Commands that write, killed: a few of each here; `python -m tests.hostile.kills` tries hundreds."""

from pathlib import Path

from tests.hostile.kills import WRITERS, try_kills


def test_killed_commands_leave_whole_outputs(tmp_path: Path) -> None:
    hit = try_kills(len(WRITERS), 1, tmp_path)
    assert sum(hit.values()) >= len(WRITERS) // 3
