"""Measured points on disk, a line each as soon as it is measured, so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traces.atomic import naming
from traces.errors import InputError

Key = tuple[str, tuple[int, ...]]


def read_points(path: Path) -> dict[Key, dict[str, Any]]:
    """The points in a journal, over all rounds."""
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[1:-1]]
    return over_rounds({(line.pop("operator"), tuple(line.pop("at"))): line for line in lines})


def over_rounds(points: Mapping[Key, Mapping[str, Any]]) -> dict[Key, dict[str, Any]]:
    """Points with the last number of each key, its round, left out: medians over rounds.

    spread: within a round or between rounds (range over median), whichever is more.
    """
    rounds: dict[Key, list[Mapping[str, Any]]] = {}
    for (operator, at), point in sorted(points.items()):
        rounds.setdefault((operator, at[:-1]), []).append(point)
    return {key: _joined(found) for key, found in rounds.items()}


def _joined(found: list[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = [point["median_s"] for point in found]
    middle = statistics.median(seconds)
    within = statistics.median(point["spread"] for point in found)
    between = (max(seconds) - min(seconds)) / middle
    return {
        **found[0],
        "median_s": middle,
        "spread": max(within, between),
        "samples": sum(point["samples"] for point in found),
    }


class Journal:
    """Points measured so far in a JSON-lines file, whose first line says of what: model, machine, settings.

    Raises InputError where the file was written for something else; a last line that was cut short is dropped.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.points: dict[Key, dict[str, Any]] = {}
        about = json.loads(json.dumps(about))
        whole = self._load(about) if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(whole)
        if not whole:
            self._append({"about": about})

    def add(self, key: Key, measured: Mapping[str, Any]) -> None:
        """Keep a point; it is on disk when this returns."""
        assert key not in self.points, "measured once"
        self.points[key] = dict(measured)
        self._append({"operator": key[0], "at": key[1], **measured})

    def close(self) -> None:
        """Let go of the file."""
        with naming(self.path):
            self._file.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        with naming(self.path):
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def _load(self, about: Mapping[str, Any]) -> int:
        """Read whole lines; how many bytes they take."""
        lines = self.path.read_bytes().split(b"\n")[:-1]
        for number, text in enumerate(lines):
            try:
                line = json.loads(text)
                if number == 0:
                    self._check(line["about"], about)
                else:
                    self.points[line.pop("operator"), tuple(line.pop("at"))] = line
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{self.path}, line {number + 1}: not a measured point: remove the file") from None
        return sum(len(line) + 1 for line in lines)

    def _check(self, found: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        for name in sorted({*found, *about}):
            if found.get(name) != about.get(name):
                raise InputError(
                    f"{self.path}: measured with {name} = {str(found.get(name))[:80]}, and this run has "
                    f"{str(about.get(name))[:80]}: run it alike to go on, or give another --out"
                )
