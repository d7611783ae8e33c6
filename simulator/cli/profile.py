"""Commands about cost profiles: `rolloutsim profile list` and `rolloutsim profile show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from simulator.cost import Profile

BATCHES = (1, 8, 64, 256)
CONTEXTS = (512, 4096, 16384)
QUERIES = (1, 4, 8)


@click.group("profile")
def profile() -> None:
    """Cost profiles: what a decode step takes on a model and a device."""


@profile.command("list")
def list_command() -> None:
    """List the profiles that installed packages ship."""
    from simulator.cost import list_profiles, load_profile

    rows = [("name", "kind", "model", "device", "uncertainty")]
    for name in list_profiles():
        one = load_profile(name)
        rows.append((name, one.kind, one.model, one.device, _uncertainty(one)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@profile.command("show")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write <profile>.png into.")
@click.option("--json", "as_json", is_flag=True, help="Print the profile and its step times as JSON.")
def show_command(name: str, out: Path | None, as_json: bool) -> None:
    """Show one profile: where it is from, its operators, its valid range and its step times.

    NAME is a name from `rolloutsim profile list` or the path of a YAML file.
    """
    from simulator.cost import load_profile

    one = load_profile(name)
    times = _step_times(one)
    plot = None
    if out is not None:
        from simulator.report.profile_plots import save_profile_plot

        plot = save_profile_plot(one, out)
    if as_json:
        from simulator.cost.document import document_of

        document = document_of(one) | {"sha256": one.sha256, "step_times": times}
        if plot is not None:
            document["plot"] = str(plot)
        click.echo(json.dumps(document, indent=2))
        return
    for line in _description(one):
        click.echo(line)
    click.echo()
    for line in _time_table(times):
        click.echo(line)
    if plot is not None:
        click.echo(f"\nwrote {plot}")


def _uncertainty(one: Profile) -> str:
    return "not published" if one.relative_error is None else f"{100 * one.relative_error:.3g} %"


def _description(one: Profile) -> list[str]:
    facts = [("profile", one.name), ("kind", one.kind), ("model", one.model), ("device", one.device)]
    facts += [("source", one.source), ("relative error", _uncertainty(one)), ("uncertainty", one.uncertainty)]
    facts += [("notes", one.notes)] if one.notes else []
    facts += [("sha256", one.sha256)] if one.sha256 else []
    lines = [_wrapped(key, text) for key, text in facts]
    span = [f"{feature} {lowest:g} to {highest:g}" for feature, (lowest, highest) in one.valid_range.items()]
    lines.append(_wrapped("valid range", ", ".join(span) or "not bounded"))
    lines += [_wrapped("operator", _operator_line(operator)) for operator in one.operators]
    for drafter, costs in one.drafter_costs.items():
        lines.append(_wrapped("drafter", f"{drafter}: " + ", ".join(f"{key} {cost:g}" for key, cost in costs.items())))
    return lines


def _operator_line(operator: Any) -> str:
    from simulator.cost.document import operator_document

    document = operator_document(operator)
    times = f" x {document['repeat']}" if document["repeat"] > 1 else ""
    if document["kind"] == "table":
        axes = (
            f"{axis} ({len(points)} points)" for axis, points in zip(document["axes"], document["grid"], strict=True)
        )
        return f"{operator.name}: table over {', '.join(axes)}{times}"
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
    import textwrap

    return textwrap.fill(f"{key:<16}{text}", 118, subsequent_indent=" " * 16)


def _step_times(one: Profile) -> list[dict[str, Any]]:
    """Step time of decode steps over batch, context and query tokens per sequence."""
    import itertools

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
