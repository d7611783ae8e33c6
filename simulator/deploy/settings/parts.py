"""What settings are made of: checks, and what an engine is told to draft."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from simulator.deploy.settings.choice import Choice

Level = Literal["ok", "warning", "refused"]


@dataclass(frozen=True)
class Check:
    """level: `ok` for what was looked at and holds, `warning` for what to know, `refused` for what the engine cannot do as asked.

    text: a sentence; source: the file of the engine or framework, or the pull request, that says so.
    """

    level: Level
    text: str
    source: str


@dataclass(frozen=True)
class Arguments:
    """Arguments of an engine by their Python names.

    runs: the choice that they really run; where it is not the one that was asked for, a check says why. install: packages that
    the engine needs besides; files: text of files that arguments name.
    """

    config: dict[str, Any]
    runs: Choice
    checks: tuple[Check, ...] = ()
    install: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def without_drafts(choice: Choice, *checks: Check) -> Arguments:
    """Nothing is drafted."""
    return Arguments({}, choice.model_copy(update={"policy": "none"}), checks)


def instead(nearest: Arguments, text: str, source: str) -> Arguments:
    """The nearest that there is, and first of all why it is not what was asked for."""
    return replace(nearest, checks=(Check("refused", text, source), *nearest.checks))
