"""The folder that a run leaves behind: tables, plots, and the scenario that made them."""

from pathlib import Path

from simulator.report.plots import save_plots
from simulator.results import Result
from simulator.scenario import Scenario
from traces.atomic import replacing
from traces.errors import InputError


def write_folder(result: Result, scenario: Scenario, folder: Path) -> list[Path]:
    """Write scenario.yaml, the Parquet tables and the PNG plots; returns their paths."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created ({error.strerror}): give --out another folder") from None
    with replacing(folder / "scenario.yaml") as file:
        file.write(scenario.yaml().encode())
    return [folder / "scenario.yaml", *result.write(folder), *save_plots(result, folder)]
