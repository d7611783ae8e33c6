"""`rolloutsim validate R --steps` and `--seconds`: a recording of `rolloutsim calibrate vllm` against its simulation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.progress import each

if TYPE_CHECKING:
    from calibration.live.seconds import Costs


def compare_steps(folder: Path, as_json: bool) -> int:
    """Print how many steps of each run are the simulator's, and the first of each that differs; returns the exit code."""
    from calibration.live.recording import read
    from calibration.live.steps import compare, told

    runs = [told(compare(run)) for run in each(read(folder), "run")]
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "recording": str(folder), "runs": runs}, indent=1))
        return 0
    click.echo(f"{'run':<22}{'slots':>6}{'steps':>8}{'equal':>9}{'drafts alike':>14}{'drafted':>10}{'simulated':>11}")
    for run in runs:
        alike = (
            "-" if run["decisions"] is None else f"{run['decisions']['equal'] / max(run['decisions']['all'], 1):.2%}"
        )
        click.echo(
            f"{run['configuration'] + '.' + str(run['repeat']):<22}{run['slots']:>6}{run['steps']['measured']:>8,}"
            f"{run['equal_fraction']:>9.2%}{alike:>14}{run['drafted']['measured']:>10,}{run['drafted']['simulated']:>11,}"
        )
    for run in runs:
        if run["first_difference"] is not None:
            first = run["first_difference"]
            click.echo(
                f"\n{run['configuration']}.{run['repeat']} at {run['slots']}: step {first['step']} differs first"
            )
            click.echo(f"  measured   {first['measured']}\n  simulated  {first['simulated']}")
    return 0


def compare_seconds(folder: Path, fitted: tuple[str, ...], out: Path | None, as_json: bool) -> int:
    """Print the makespan of each run on both sides, at costs out of the fitted ones; returns the exit code.

    out: a folder for `seconds.json`, the costs as `profile.yaml` and those of each drafter as `DRAFTER.yaml` and
    `DRAFTER-host.yaml`.
    """
    from calibration.asked import read_json
    from calibration.live.recording import read
    from calibration.live.seconds import fit, predict, repeated, told

    if out is not None:
        from simulator.report.folder import check_folder

        check_folder(out)
    runs = repeated(read(folder))
    costs = fit(runs, fitted, str(read_json(folder / "run.json")["engine"]["model"]))
    found = {"schema_version": 1, "recording": str(folder), **told(list(predict(costs, runs, fitted)), costs)}
    if out is not None:
        _write(found, costs, out)
    for line in [json.dumps(found, allow_nan=False, indent=1)] if as_json else _seconds(found, out):
        click.echo(line)
    return 0


def _seconds(found: dict[str, Any], out: Path | None) -> Iterator[str]:
    yield (
        f"{'run':<16}{'slots':>6}{'repeats':>9}{'measured s':>12}{'spread':>9}{'simulated s':>13}{'90 % range s':>15}"
        f"{'error':>9}{'by steps':>10}"
        f"{'outside':>9}"
    )
    for run in found["runs"]:
        fitted, span = "  fitted" if run["fitted"] else "", f"{run['low_s']:.2f}-{run['high_s']:.2f}"
        yield (
            f"{run['configuration']:<16}{run['slots']:>6}{run['repeats']:>9}{run['measured_s']:>12.3f}{run['spread']:>9.1%}"
            f"{run['simulated_s']:>13.3f}{span:>15}{run['error']:>+9.1%}{run['error_by_steps']:>+10.1%}{run['outside_fraction']:>9.1%}{fitted}"
        )
    yield ""
    if found["predicted"]:
        yield (
            f"{found['predicted']} runs predicted: error {found['median_error']:.1%} in the median, {found['worst_error']:.1%} "
            f"at worst (each step at its median: {found['median_error_by_steps']:.1%}, {found['worst_error_by_steps']:.1%}); "
            f"their repeats differ by {found['median_spread']:.1%} in the median, {found['within_spread']} by more than the error"
        )
        yield f"{found['within_range']} of {found['predicted']} predicted makespans were measured within the 90 % range"
    pairs = found["pairs"]
    yield f"order: {pairs['ordered']} of {pairs['separate']} pairs whose repeats do not overlap are simulated as measured"
    for drafter in found["drafting_borrowed"]:
        yield f"note: time to draft, {drafter}: from drafting_s of {found['drafting_told_by'][drafter][0]}, not its makespan"
    for note in found["notes"]:
        yield f"note: {note}"
    if out is not None:
        yield f"costs and comparison: {out}"


def _write(found: dict[str, Any], costs: Costs, out: Path) -> None:
    from calibration.live.seconds import draft_costs
    from simulator.cost.profiles import write_profile
    from simulator.drafting.cost import write_draft_cost
    from traces.atomic import replacing_folder

    with replacing_folder(out) as scratch:
        write_profile(costs.profile, scratch / "profile.yaml")
        for document in draft_costs(costs):
            write_draft_cost(document, scratch / f"{document['drafter']}.yaml")
        (scratch / "seconds.json").write_text(json.dumps(found, allow_nan=False, indent=1), "utf-8")
