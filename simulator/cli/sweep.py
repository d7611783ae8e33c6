"""`rolloutsim sweep`: a scenario under every combination of some of its keys, or under those that a search picks."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simulator.cli.flags import allow_code_option
from simulator.cli.numbers import Count
from simulator.limits import SEED

if TYPE_CHECKING:
    import pyarrow as pa

    from simulator.report.sweep_plots import Drawn
    from simulator.sweep.sweep import Asked, Start

MOST_WORKERS = 4096


@click.command()
@click.argument("scenario", metavar="SCENARIO", type=click.Path(path_type=Path))
@click.argument("keys", metavar="KEY=VALUES...", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the cells as they finish, the table and "
              "the plots; the same command goes on where it was stopped.")  # fmt: skip
@click.option(
    "--baseline", help="A policy that every cell is also run with, for speed-ups [default: the first of each cell]."
)
@click.option("--search", type=click.Choice(["optuna"]), help="Look for the best cell, where all of them are too many.")
@click.option("--trials", type=Count(1, 1_000_000), help="Of the search.")
@click.option(
    "--minimise", metavar="COLUMN", help="What is best: the least of this column of a run [default: makespan_s]."
)
@click.option("--maximise", metavar="COLUMN", help="What is best: the most of it, such as samples_per_s.")
@click.option("--seed", type=Count(*SEED), help="Of the search [default: 0]; that of runs is a key of the scenario.")
@click.option("--at-once", type=Count(1, 10_000), help="Trials that a search proposes together [default: 8].")
@click.option("--workers", type=Count(1, MOST_WORKERS), help="Processes [default: as many as processors].")
@click.option("--on", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where they run.")
@click.option("--address", help="Of a running Ray cluster, such as auto or HOST:6379 [default: this machine alone].")
@allow_code_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print the rows of all cells as one JSON object instead of a table."
)
def sweep(
    scenario: Path, keys: tuple[str, ...], out: Path, baseline: str | None, search: str | None, trials: int | None,
    minimise: str | None, maximise: str | None, seed: int | None, at_once: int | None, workers: int | None, on: str,
    address: str | None, allow_code: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run the YAML file SCENARIO with every combination of values: engine.max_num_seqs=64,128 policy=none,fixed:4,das.

    Keys are those of `rolloutsim run --set`, and `policy`, one a cell. With --search, ranges are allowed: drafter.window=1..32,
    engine.max_num_seqs=32..512:log, engine.block_size=16..64:16.
    """
    from simulator.cli.sweep_progress import telling
    from simulator.cli.sweep_tables import print_sweep
    from simulator.report.folder import check_folder
    from simulator.report.sweep_plots import save_sweep_plots
    from simulator.sweep.sweep import sweep as swept
    from simulator.sweep.table import cells_table, write_cells

    if address is not None and on != "ray":
        raise click.UsageError(f"--address {address}: goes with --on ray: give both, or none")
    asked = _asked(
        scenario,
        keys,
        baseline,
        (minimise, maximise),
        search,
        {"trials": trials, "seed": seed, "at_once": at_once},
        allow_code,
    )
    check_folder(out)
    start = _start(on, address, workers, out)
    try:
        with telling() as tell:
            found = swept(asked, out, start, tell)
    except KeyboardInterrupt as error:
        error.add_note("what has finished is kept, and the same command goes on from there")
        raise
    table = cells_table(asked.axes, found.outcomes, found.about)
    write_cells(table, out)
    plots = save_sweep_plots(_drawn(table, asked), out)
    if as_json:
        click.echo(json.dumps({**found.about, "cells": table.to_pylist()}, default=str, indent=1))
    else:
        print_sweep(table, asked, [out / "cells.parquet", *plots])


def _drawn(table: "pa.Table", asked: "Asked") -> "Drawn":
    """What pictures show of a sweep."""
    from simulator.report.sweep_plots import Drawn
    from simulator.sweep.table import DONE, column_of

    rows = [row for row in table.to_pylist() if row["status"] == DONE and row[asked.aim.column] is not None]
    scenario, cells = asked.study.document, len({row["cell"] for row in rows})
    told = f"{cells:,} cells   ·   trace {Path(str(scenario.get('trace'))).stem}   ·   " + (
        f"profile {scenario['profile']}"
        if scenario.get("profile")
        else f"{scenario.get('model')} on {scenario.get('device')}"
    )
    columns = [column_of(axis.key) for axis in asked.axes]
    return Drawn(rows, columns, asked.aim.column, asked.aim.largest, told)


def _asked(
    scenario: Path, keys: tuple[str, ...], baseline: str | None, aims: tuple[str | None, str | None], search: str | None,
    given: dict[str, int | None], allow_code: bool,
) -> "Asked":  # fmt: skip
    """What the flags ask for."""
    from simulator.scenario import read_document
    from simulator.sweep.axes import parse_axes
    from simulator.sweep.grid import Study
    from simulator.sweep.search import Search, objective
    from simulator.sweep.sweep import Asked
    from traces.errors import InputError

    settings = {name: value for name, value in given.items() if value is not None}
    minimise, maximise = aims
    if minimise and maximise:
        raise click.UsageError("--minimise and --maximise: a sweep has one aim: give one of them")
    if search and "trials" not in settings:
        raise click.UsageError("--search needs --trials, such as --trials 200")
    if settings and not search:
        raise click.UsageError(
            f"--{next(iter(settings)).replace('_', '-')} goes with --search optuna: give both, or none"
        )
    try:
        axes = parse_axes(keys)
        aim = objective(maximise or minimise or "makespan_s", maximise is not None)
        for axis in axes if not search else ():
            _ = axis.listed
    except InputError as error:
        raise click.UsageError(str(error)) from None
    try:
        document = read_document(scenario)
    except InputError as error:
        raise InputError(f"{scenario}: {error}") from None
    named = None if allow_code else (*keys, baseline or "")
    return Asked(Study(document, baseline, named), axes, aim, Search(**settings) if search else None)


def _start(on: str, address: str | None, workers: int | None, out: Path) -> "Start":
    """What starts the workers."""
    if on == "ray":
        from simulator.sweep.on_ray import actors

        return lambda study, traces: actors(study, traces, workers, address)
    from simulator.sweep.local import processes

    return lambda study, traces: processes(study, traces, workers or (os.cpu_count() or 1), out / ".drafts")
