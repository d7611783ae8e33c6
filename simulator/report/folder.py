"""The folder that a run leaves behind: tables, plots, and the scenario that made them; and checks of where results go."""

import tempfile
from pathlib import Path

from simulator.report.plots import save_plots
from simulator.results import Result
from simulator.scenario import Scenario
from traces.atomic import replacing_folder
from traces.errors import InputError


def check_folder(folder: Path) -> None:
    """Make sure, before anything is simulated, that results can be written into `folder`; creates it if need be."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file: give --out a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}): give --out another folder") from None


def check_file(file: Path, flag: str) -> None:
    """Make sure, before anything is simulated, that `file`, the value of this flag, can be written."""
    if file.is_dir():
        raise InputError(f"{file}: is a folder: give {flag} the name of a file")
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise InputError(
            f"{file}: cannot be written ({error.strerror}): make its folder, or give {flag} another"
        ) from None


def write_folder(result: Result, scenario: Scenario, folder: Path) -> list[Path]:
    """Write scenario.yaml, the Parquet tables and the PNG plots: all of them, or, where one fails, none."""
    with replacing_folder(folder) as scratch:
        written = write_files(result, scenario, scratch)
    return [folder / path.name for path in written]


def write_files(result: Result, scenario: Scenario, folder: Path) -> list[Path]:
    """Write them one after another, into a folder that nobody sees yet."""
    (folder / "scenario.yaml").write_text(scenario.yaml(), "utf-8")
    return [folder / "scenario.yaml", *result.write(folder), *save_plots(result, folder)]
