"""`rolloutsim validate`: simulate a measured serving run from its own log, and say how far off the simulation is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from simulator.cli.validate_recording import compare_seconds, compare_steps
from simulator.progress import doing

if TYPE_CHECKING:
    from calibration.runs.measured import MeasuredRun
    from calibration.validation import SimulatedRun

OUTSIDE = 4
"""Exit code where the run leaves the range that the profile was measured in."""


@click.command()
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path(path_type=Path))
@click.option("--steps", is_flag=True, help="Compare a recording of `rolloutsim calibrate vllm` step by step.")
@click.option("--seconds", is_flag=True, help="Price a recording by some of its runs (--fit), and predict the others.")
@click.option(
    "--fit", multiple=True, metavar="NAME@SLOTS", help="With --seconds, a run that costs are from; repeatable."
)
@click.option("--profile", help="Cost profile: a name from `rolloutsim profile list`, or a YAML file.")
@click.option("--model", help="The model's config.json, or its name in the catalogue.")
@click.option(
    "--deployment",
    type=click.Path(path_type=Path),
    help="JSON with device memory, links and instances; KV blocks are derived from it where the log lacks them.",
)
@click.option(
    "--router",
    type=click.Choice(["round_robin", "least_loaded"]),
    default="round_robin",
    show_default=True,
    help="How requests are spread over replicas.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Override a setting by its vLLM name, such as num_gpu_blocks=2588 or async_scheduling=false; repeatable.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for what is found; with --seconds also for the costs."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def validate(
    run_dir: Path, steps: bool, seconds: bool, fit: tuple[str, ...], profile: str | None, model: str | None,
    deployment: Path | None, router: Any, overrides: tuple[str, ...], out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Simulate the serving run measured in RUN_DIR, and compare time to first token, time per token and latency.

    RUN_DIR is a vLLM request log (meta.json, requests.jsonl), what `vllm bench serve --save-detailed` or SGLang's
    `bench_serving --output-details` wrote, or a run that `rolloutsim calibrate vllm` recorded: its folder, or, where that
    holds several, the run's file. Recorded tokens are drafted for as they were in the run.

    Exit code 4: the run leaves the range that the profile was measured in.

    With --steps or --seconds RUN_DIR is what `rolloutsim calibrate vllm` recorded, and neither --profile nor --model is needed.
    --steps compares of every step sequences, tokens, drafts, accepted and emitted tokens and preemptions; --seconds the makespan
    of every run at costs that come from those named by --fit.
    """
    if steps or seconds or fit:
        _check_recording_flags(steps, seconds, fit)
        return compare_steps(run_dir, as_json) if steps else compare_seconds(run_dir, fit, out, as_json)
    if profile is None or model is None:
        raise click.UsageError(f"--{'model' if profile else 'profile'} is missing: name it, or compare --steps alone")
    from calibration.replay_run import simulate_run
    from calibration.runs.deployment import read_deployment
    from calibration.runs.read import read_run
    from calibration.runs.settled import settle
    from calibration.validation import compare, document
    from simulator.catalogue import load_model
    from simulator.cost import load_profile
    from simulator.cost.model_config import model_shape

    if out is not None:
        from simulator.report.folder import check_folder

        check_folder(out)
    costs = load_profile(profile)
    with doing("reading"):
        run = read_run(run_dir)
    deployed = None if deployment is None else read_deployment(deployment)
    settled = settle(run, model_shape(load_model(model)), deployed, overrides)
    with doing("simulating"):
        simulated = simulate_run(run, settled.facts, costs, deployed, router)
    warnings = [*run.notes, *settled.notes, *simulated.notes, *_outside(simulated)]
    told = document(compare(run, simulated), {
        "run": {"path": str(run.source), "kind": run.kind, "anchor": run.anchor},
        "profile": {"name": costs.name, "model": costs.model, "device": costs.device, "sha256": costs.sha256},
        "model": {"name": run.model, "config": model},
        "deployment": None if deployed is None else asdict(deployed),
        "router": router,
        "settings": asdict(settled.facts),
        "assumed": list(settled.assumed),
        "requests": len(run.requests),
        "outside_fraction": simulated.outside_fraction,
        "errors": list(simulated.errors),
        "warnings": warnings,
    })  # fmt: skip
    if out is not None:
        _write(told, run, simulated, out)
    for line in [json.dumps(told, allow_nan=False, indent=1)] if as_json else _lines(told, out):
        click.echo(line)
    return OUTSIDE if simulated.outside_fraction > 0 else 0


def _check_recording_flags(steps: bool, seconds: bool, fit: tuple[str, ...]) -> None:
    """UsageError where a flag has no effect on a recording, or one is missing."""
    if steps and (seconds or fit):
        raise click.UsageError(
            f"{'--seconds' if seconds else '--fit'}: does not go with --steps: leave one of the two out"
        )
    if not steps and not (seconds and fit):
        raise click.UsageError("--fit NAME@SLOTS says which runs --seconds takes its costs from: give both")
    source = click.get_current_context().get_parameter_source
    others = {"profile": "--profile", "model": "--model", "deployment": "--deployment", "router": "--router",
              "overrides": "--set"} | ({"out": "--out"} if steps else {})  # fmt: skip
    if given := [flag for name, flag in others.items() if source(name) is ParameterSource.COMMANDLINE]:
        why = "which needs no costs" if steps else "which takes its costs from the recording"
        raise click.UsageError(f"{given[0]}: does not go with --{'steps' if steps else 'seconds'}, {why}: leave it out")


def _outside(simulated: SimulatedRun) -> tuple[str, ...]:
    share = simulated.outside_fraction
    if not share > 0:
        return ()
    return (f"{share:.2%} of the simulated time is in steps outside the range that the profile was measured in",)


def _write(told: dict[str, Any], run: MeasuredRun, simulated: SimulatedRun, out: Path) -> None:
    from calibration.validation import latencies, measured_series, simulated_latencies, simulated_series
    from simulator.report.validation_plots import save_validation_plot
    from traces.atomic import replacing_folder

    series = measured_series(run)
    with replacing_folder(out) as scratch:
        (scratch / "validation.json").write_text(json.dumps(told, allow_nan=False, indent=1), "utf-8")
        save_validation_plot(
            series | latencies(run),
            simulated_series(run, simulated, series["t_s"]) | simulated_latencies(run, simulated),
            f"{run.source.name}: {told['requests']:,} requests of {run.model or 'an unnamed model'}",
            f"profile {told['profile']['name']}",
            scratch / "validation.png",
        )


def _lines(told: dict[str, Any], out: Path | None) -> Iterator[str]:
    run, profile = told["run"], told["profile"]
    yield f"{run['path']}: {run['kind']}, {told['requests']:,} requests, {told['model']['name'] or 'model not named'}"
    yield f"profile {profile['name']}: {profile['model']} on {profile['device']}; times count from {run['anchor']}"
    yield ""
    yield from _table(told["metrics"])
    yield ""
    settings = {name: _shown(value) for name, value in told["settings"].items() if value is not None}
    yield _wrapped("settings", [f"{name} {value}" for name, value in settings.items()])
    if told["assumed"]:
        yield _wrapped("assumed", told["assumed"])
    if told["errors"]:
        yield _wrapped("90 %", told["errors"])
    for warning in told["warnings"]:
        yield f"note: {warning}"
    if out is not None:
        yield f"comparison and picture: {out}"


def _table(metrics: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"{'metric':<12}{'stat':<6}{'measured':>11}{'simulated':>11}{'error':>10}"
    for row in metrics:
        error = "-" if row["error"] is None else f"{row['error']:+.2%}"
        span = "" if row["low"] is None else f"   90 %: {row['low']:.5g} to {row['high']:.5g}"
        yield f"{row['metric']:<12}{row['stat']:<6}{row['measured']:>11.5g}{row['simulated']:>11.5g}{error:>10}{span}"


def _wrapped(key: str, parts: Sequence[str]) -> str:
    import textwrap

    return textwrap.fill(f"{key:<10}{', '.join(parts)}", 118, subsequent_indent=" " * 10, break_on_hyphens=False)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]} to {value[-1]} ({len(value)} sizes)" if value else "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
