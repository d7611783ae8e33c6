"""`rolloutsim profile show`: what a profile says, how far it is off between its points, and where a step's time goes."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.numbers import Count

if TYPE_CHECKING:
    from simulator.cost import Operator, Profile
    from simulator.cost.roofs import Roofs

BATCHES = (1, 8, 64, 256)
CONTEXTS = (512, 4096, 16384)
QUERIES = (1, 4, 8)
ROOF_CONTEXTS = (1024, 4096, 8192, 16384, 32768)
ROOF_POINTS = 60
HELD_OUT = "held-out error: measured points left out, predicted from their neighbours"
ROOF_MOST_LIVE = 512


@click.command("show")
@click.argument("name")
@click.option("--roof", metavar="DEVICE", help="Hold decode steps against what this device of the catalogue allows.")
@click.option("--model", help="For --roof: the model's config.json, or its name in the catalogue.")
@click.option("--tp", type=Count(1), help="For --roof: GPUs that hold the model [default: 1].")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for pictures, <profile>*.png.")
@click.option("--json", "as_json", is_flag=True, help="Print the profile and all that is computed of it as JSON.")
def show(name: str, roof: str | None, model: str | None, tp: int | None, out: Path | None, as_json: bool) -> None:
    """Show one profile: where it is from, its operators, its valid range, its step times and where they go.

    NAME is a name from `rolloutsim profile list` or the path of a YAML or Parquet file. The held-out error of a table is that
    of measured points that are left out, and predicted from their neighbours.
    """
    from simulator.cost import load_profile
    from simulator.cost.held_out import held_out

    if (roof is None) != (model is None):
        raise click.UsageError(
            "--roof and --model go together: the bytes are those of a model, the bandwidth a device's"
        )
    if tp is not None and roof is None:
        raise click.UsageError("--tp: says how many GPUs a --roof is of: give --roof and --model too, or leave it out")
    tp = tp or 1
    one = load_profile(name)
    limits = None if roof is None or model is None else _roofs(one, model, roof, tp)
    times, errors, parts = _step_times(one), held_out(one), _parts(one)
    pictures = [] if out is None else _pictures(one, limits, out)
    if as_json:
        from simulator.cost.document import document_of

        document = document_of(one) | {
            "sha256": one.sha256,
            "step_times": times,
            "held_out": errors,
            "breakdown": parts,
        }
        if limits is not None:
            document["roof"] = {"device": roof, "model": model, "tp": tp} | _verdict(limits)
        if pictures:
            document["plots"] = [str(path) for path in pictures]
        click.echo(json.dumps(document, indent=2))
        return
    blocks = [_description(one), _time_table(times), _part_table(parts)]
    blocks += [error_table(HELD_OUT, errors)] if errors else []
    blocks += list(measured_blocks(one))
    blocks += [[_roof_line(limits, f"{tp} x {roof}" if tp > 1 else str(roof))]] if limits is not None else []
    blocks += [[f"wrote {path}" for path in pictures]] if pictures else []
    click.echo("\n\n".join("\n".join(lines) for lines in blocks))


def uncertainty(one: Profile) -> str:
    """Error of a profile in words."""
    if one.error_factors is not None:
        return f"90 % of steps take {one.error_factors[0]:g} to {one.error_factors[1]:g} times as long as priced"
    return "not published" if one.relative_error is None else f"{100 * one.relative_error:.3g} %"


def _description(one: Profile) -> list[str]:
    facts = [("profile", one.name), ("kind", one.kind), ("model", one.model), ("device", one.device)]
    facts += [("source", one.source), ("relative error", uncertainty(one)), ("uncertainty", one.uncertainty)]
    facts += [("notes", one.notes)] if one.notes else []
    facts += [("parallel", ", ".join(f"{name} {size}" for name, size in one.parallel.items()))] if one.parallel else []
    facts += [("sha256", one.sha256)] if one.sha256 else []
    lines = [_wrapped(key, text) for key, text in facts]
    span = [f"{feature} {lowest:g} to {highest:g}" for feature, (lowest, highest) in one.valid_range.items()]
    lines.append(_wrapped("valid range", ", ".join(span) or "not bounded"))
    if one.derived:
        beyond = ", ".join(f"{feature} beyond {highest:g}" for feature, highest in one.derived.items())
        lines.append(_wrapped("derived", f"{beyond}: {one.derivation}"))
    lines += [_wrapped("operator", _operator_line(operator)) for operator in one.operators]
    for drafter, costs in one.drafter_costs.items():
        lines.append(_wrapped("drafter", f"{drafter}: " + ", ".join(f"{key} {cost:g}" for key, cost in costs.items())))
    return lines


def _operator_line(operator: Operator) -> str:
    from simulator.cost.document import operator_document
    from simulator.cost.operators import Table

    times = f" x {operator.repeat}" if operator.repeat > 1 else ""
    if isinstance(operator, Table):
        axes = (f"{axis} ({points.size} points)" for axis, points in zip(operator.axes, operator.grid, strict=True))
        when = "" if operator.when == "always" else f", {operator.when.replace('_', ' ')}"
        per = "" if operator.per is None else f", per {operator.per}"
        return f"{operator.name}: table over {', '.join(axes)}{times}{when}{per}"
    document = operator_document(operator)
    rows = (
        " + ".join(
            f"{cost:.4g} s" + ("" if key == "constant" else f" per {key}") for key, cost in document[part].items()
        )
        for part in ("coefficients_s", "memory_s", "compute_s")
        if part in document
    )
    text = " or ".join(rows)
    return f"{operator.name}: {'the larger of ' if document['kind'] == 'roof' else ''}{text}{times}"


def _wrapped(key: str, text: str) -> str:
    return textwrap.fill(f"{key:<16}{text}", 118, subsequent_indent=" " * 16)


def _step_times(one: Profile) -> list[dict[str, Any]]:
    """Step time of decode steps over batch, context and query tokens per sequence."""
    import numpy as np

    from simulator.cost import StepWork

    cases = np.array(list(itertools.product(BATCHES, CONTEXTS, QUERIES)))
    work = StepWork.decode(cases[:, 0], cases[:, 1], cases[:, 2])
    return [
        {
            "live": int(live),
            "context_tokens": int(context),
            "query_per_seq": int(query),
            "step_time_s": float(seconds),
            "outside_valid_range": bool(outside),
        }
        for (live, context, query), seconds, outside in zip(
            cases, one.step_time_s(work), one.outside(work), strict=True
        )
    ]


def _time_table(times: list[dict[str, Any]]) -> list[str]:
    """Step times in milliseconds: a line per batch and context, a column per query tokens; a star means outside."""
    lines = ["step time (ms) of a decode step; * = outside the valid range"]
    lines.append("  live  context" + "".join(f"{f'{query} query/seq':>15}" for query in QUERIES))
    for start in range(0, len(times), len(QUERIES)):
        row = times[start : start + len(QUERIES)]
        cells = (f"{1e3 * case['step_time_s']:.3f}{'*' if case['outside_valid_range'] else ' '}" for case in row)
        lines.append(f"{row[0]['live']:>6}{row[0]['context_tokens']:>9}" + "".join(f"{cell:>15}" for cell in cells))
    return lines


def _parts(one: Profile) -> list[dict[str, Any]]:
    """Seconds by operator, the largest and all others, of decode steps with one query token per sequence."""
    import numpy as np

    from simulator.cost import StepWork
    from simulator.cost.breakdown import breakdown

    cases = np.array(list(itertools.product(BATCHES, CONTEXTS)))
    parts = breakdown(one, StepWork.decode(cases[:, 0], cases[:, 1]))
    return [
        {
            "live": int(live),
            "context_tokens": int(context),
            "operators_s": {name: float(seconds[case]) for name, seconds in parts.items()},
        }
        for case, (live, context) in enumerate(cases)
    ]


def _part_table(parts: list[dict[str, Any]]) -> list[str]:
    """Shares of the step time: a line per batch and context, a column per operator."""
    names = list(parts[0]["operators_s"])
    widths = [max(len(name), 6) + 2 for name in names]
    head = "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    lines = ["share of a decode step by operator, one query token per sequence", "  live  context" + head]
    for case in parts:
        total = sum(case["operators_s"].values())
        cells = (f"{case['operators_s'][name] / total:>{width}.1%}" for name, width in zip(names, widths, strict=True))
        lines.append(f"{case['live']:>6}{case['context_tokens']:>9}" + "".join(cells))
    return lines


def measured_blocks(one: Profile) -> Iterator[list[str]]:
    """What a profile made here tells besides: spread of repeats, simpler laws, the machine's own figures."""
    if one.fits:
        lines = error_table("simpler laws fitted to whole steps, and their error on others", one.fits)
        for name, law in one.fits.items():
            terms = [f"{key} {value:.4g}" for key, value in law.items() if key.endswith("_s")]
            lines += [_wrapped(name, ", ".join(terms))] if terms else []
        yield lines
    if one.spread:
        yield error_table("spread: what repeated measurements of a point differ by, over their median", one.spread)
    if one.measured:
        yield [_wrapped("measured", ", ".join(f"{name} {value:.4g}" for name, value in one.measured.items()))]


def error_table(title: str, errors: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each name: how many points, their median and 95th percentile."""
    width = max(map(len, errors)) + 2
    lines = [title]
    lines.append(f"{'operator':<{width}}{'points':>8}{'median':>9}{'p95':>9}")
    for name, error in errors.items():
        lines.append(f"{name:<{width}}{error['points']:>8,.0f}{error['median']:>9.2%}{error['p95']:>9.2%}")
    return lines


def _roofs(one: Profile, model: str, device: str, tp: int) -> Roofs:
    import numpy as np

    from simulator.catalogue import load_device, load_model
    from simulator.cost.model_config import model_shape
    from simulator.cost.roofs import roofs

    live = np.unique(np.rint(np.geomspace(1, ROOF_MOST_LIVE, ROOF_POINTS)))
    contexts = np.unique(np.rint([*np.geomspace(ROOF_CONTEXTS[0], ROOF_CONTEXTS[-1], ROOF_POINTS), *ROOF_CONTEXTS]))
    return roofs(one, model_shape(load_model(model)).shard(tp), load_device(device), live, contexts)


def _verdict(limits: Roofs) -> dict[str, Any]:
    """How many decode steps within the valid range cost less than the device allows, and the closest one."""
    import numpy as np

    ratio = np.where(limits.inside, limits.ratio, np.inf)
    steps = int(limits.inside.sum())
    if steps == 0:
        return {"steps": 0, "below_fraction": None, "least_ratio": None, "at": None}
    closest = np.unravel_index(int(ratio.argmin()), ratio.shape)
    return {
        "steps": steps,
        "below_fraction": float((ratio < 1).sum() / steps),
        "least_ratio": float(ratio[closest]),
        "at": {"live": int(limits.live[closest]), "context_tokens": int(limits.context_tokens[closest])},
    }


def _roof_line(limits: Roofs, device: str) -> str:
    told = _verdict(limits)
    if not told["steps"]:
        return f"roof of {device}: no decode step of 1 to {ROOF_MOST_LIVE} sequences lies in the valid range"
    at = told["at"]
    return (
        f"roof of {device}: {told['below_fraction']:.2%} of {told['steps']:,} decode steps cost less than it allows; the "
        f"closest costs {told['least_ratio']:.3f} times the roof ({at['live']} live, context {at['context_tokens']:,})"
    )


def _pictures(one: Profile, limits: Roofs | None, out: Path) -> list[Path]:
    from simulator.report.profile_plots import save_breakdown_plot, save_profile_plot, save_roof_plot
    from traces.atomic import replacing_folder

    with replacing_folder(out) as scratch:
        paths = [save_profile_plot(one, scratch), save_breakdown_plot(one, scratch)]
        paths += [] if limits is None else [save_roof_plot(one, limits, ROOF_CONTEXTS, scratch)]
    return [out / path.name for path in paths]
