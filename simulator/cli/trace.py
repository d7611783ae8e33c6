"""`rolloutsim trace`: look at, check, bring in and make up recorded rollouts."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.existing import force_option, refuse_existing
from simulator.cli.trace_import import import_
from simulator.progress import doing
from simulator.report.grid import PIPED, Column, grid
from traces.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

TRACE = click.argument("path", metavar="TRACE", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="Trace file to write (Parquet).")


@click.group("trace")
def trace() -> None:
    """Describe, validate, import or synthesise traces of rollouts."""


@trace.command()
@TRACE
@JSON
@click.option("--out", type=click.Path(path_type=Path), help="Also draw the response lengths to this PNG.")
@force_option
def describe(path: Path, as_json: bool, out: Path | None, force: bool) -> None:
    """Show sizes, response lengths, the tail and the columns of a trace."""
    from traces import io
    from traces.description import describe as figures_of

    if out:
        refuse_existing(out, force)
    with doing("reading"):
        recorded = io.read(path)
    with doing("describing"):
        figures = figures_of(recorded)
    if out:
        from traces.plots import plot_lengths, save

        save(plot_lengths(recorded), out)
    if as_json:
        click.echo(json.dumps(figures, allow_nan=False))
    else:
        for line in _description(figures, shutil.get_terminal_size((PIPED, 24)).columns):
            click.echo(line)


@trace.command()
@TRACE
@JSON
def validate(path: Path, as_json: bool) -> None:
    """Check every rule of the trace format; exit code 3 names the first that is broken."""
    from traces import io

    try:
        with doing("reading"):
            recorded = io.read(path)
    except InputError as error:
        if as_json:
            click.echo(json.dumps({"valid": False, "source": str(path), "error": str(error)}))
        raise
    tokens = int(recorded.offsets[-1])
    if as_json:
        answer = {"valid": True, "source": recorded.source, "sha256": recorded.sha256}
        click.echo(json.dumps({**answer, "rollouts": len(recorded), "output_tokens": tokens}))
    else:
        click.echo(f"{path}: valid, {len(recorded):,} rollouts, {tokens:,} response tokens")


trace.add_command(import_)


@trace.command()
@click.option("--prompts", default=64, show_default=True, help="Prompts, all of them in every step.")
@click.option("--samples", default=8, show_default=True, help="Rollouts of a prompt in a step.")
@click.option("--steps", default=4, show_default=True, help="RL steps.")
@click.option("--seed", default=0, show_default=True, help="Seed; the same options give the same trace.")
@click.option("--median-tokens", default=1000.0, show_default=True, help="Median response length of step 0.")
@click.option("--max-tokens", default=16_000, show_default=True, help="Length at which a response is cut.")
@click.option("--log-sigma", default=0.85, show_default=True, help="Standard deviation of the logarithm of lengths.")
@click.option("--prompt-share", default=0.5, show_default=True, help="Share of its variance that is the prompt's.")
@click.option("--drift", default=0.0, show_default=True, help="Growth of the median per step, as a logarithm.")
@click.option("--prompt-tokens", default=128, show_default=True, help="Mean prompt length.")
@click.option("--vocabulary", default=32_000, show_default=True, help="Distinct token ids.")
@click.option("--zipf", default=1.1, show_default=True, help="Exponent of the frequencies of new token ids.")
@click.option("--sibling-reuse", default=0.3, show_default=True, help="Probability that a span copies a sibling.")
@click.option("--history-reuse", default=0.4, show_default=True, help="Probability that it copies an earlier step.")
@click.option("--span-tokens", default=24.0, show_default=True, help="Mean length of a span.")
@OUT
@force_option
def synth(out: Path, force: bool, **settings: Any) -> None:
    """Make up a trace with a heavy tail and controlled repetition."""
    from traces.synthesis import synth as make_up

    refuse_existing(out, force)
    _write(make_up(**settings), out)


def _write(table: "pa.Table", out: Path) -> None:
    from traces import io

    io.write(table, out, io.provenance(table))
    tokens = int(table.column("output_tokens").to_numpy().sum(dtype="int64"))
    click.echo(f"wrote {out}: {table.num_rows:,} rollouts, {tokens:,} response tokens")


def _description(figures: dict[str, Any], width: int) -> Iterator[str]:
    yield figures["source"]
    facts = _facts(figures)
    wide = max(len(label) for label, _ in facts)
    yield from (f"{label:<{wide}}  {text}" for label, text in facts)
    parts = [(str(part["step"]), part) for part in figures["per_step"]] + [("all", figures)]
    quantiles = [
        Column(name, [f"{part['length_tokens'][name]:,.0f}" for _, part in parts]) for name in figures["length_tokens"]
    ]
    yield from ["", "Response length (tokens)", *grid([
        Column("step", [step for step, _ in parts], number=False),
        Column("rollouts", [f"{part['rollouts']:,}" for _, part in parts]),
        *quantiles,
        Column("tail share", [_percent(part["tail_share"]) for _, part in parts]),
    ], width)]  # fmt: skip
    yield from ["", "Columns", *grid([
        Column(name, [str(entry[name]) for entry in figures["columns"]], number=False)
        for name in ("column", "unit", "description")
    ], width)]  # fmt: skip
    if figures["other_columns"]:
        yield f"other columns, kept but not used: {', '.join(figures['other_columns'])}"
    yield from (f"hint: {hint}" for hint in figures["hints"])


def _facts(figures: dict[str, Any]) -> list[tuple[str, str]]:
    counts = ", ".join(f"{count:,} {reason}" for reason, count in figures["finish_reasons"].items() if count)
    between = figures["between_prompt_share"]
    return [
        ("rollouts", f"{figures['rollouts']:,} in {figures['groups']:,} groups"),
        ("steps", f"{figures['steps']:,}"),
        ("prompts", f"{figures['prompts']:,}"),
        (
            "response tokens",
            f"{figures['output_tokens']:,}, ids {'recorded' if figures['has_token_ids'] else 'absent'}",
        ),
        ("finish reasons", counts),
        ("censored", _percent(figures["censored_share"], "unknown")),
        ("tail", f"{_percent(figures['tail_share'])} of the shortest makespan has less than a tenth of rollouts live"),
        (
            "length variance",
            "cannot be split: needs several prompts in a step, and several rollouts of one"
            if between is None
            else f"{_percent(between)} between prompts, {_percent(1 - between)} within",
        ),
    ]


def _percent(share: float | None, absent: str = "") -> str:
    return absent if share is None else f"{100 * share:.1f} %"
