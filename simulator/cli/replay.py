"""`rolloutsim replay` and `rolloutsim run`: simulate recorded rollouts and say what each policy would have taken."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from simulator.cli.flags import (
    Finite,
    drafter_options,
    output_options,
    parse_drafter,
    parse_limits,
    parse_steps,
    refusing_flags,
    with_flags,
)
from simulator.cli.reports import Quoted, check_reports, report_options, write_reports
from simulator.limits import (
    BOOTSTRAP,
    ENGINE,
    MAX_NUM_SEQS,
    NEWEST,
    NEWEST_WEIGHT,
    REPLICAS,
    RESAMPLES,
    SEED,
    SEEDS,
    SUFFIX,
    TENSOR_PARALLEL,
    Dispatch,
    KvDtype,
    Siblings,
)
from simulator.systems.built_in import ALL, BASELINE, built_in_systems

if TYPE_CHECKING:
    from simulator.scenario import Scenario

TRAINING = ("log_probs", "update", "sync")
"""Stages of every system beside built-in ones, unless others are given."""


@click.command(cls=Quoted)
@click.argument("trace", metavar="TRACE")
@click.option("--profile", help="Cost profile: a name from `rolloutsim profile list`, or a file.")
@click.option(
    "--model", help="Model of the catalogue, or its config.json: with --device an estimate in place of a profile."
)
@click.option("--device", help="Device of the catalogue, such as h200, or a YAML file of its figures.")
@click.option("--tables", metavar="ENGINE[==VERSION]", help="With --model and --device: costs from installed tables of kernels "
              "measured under vllm, sglang or trtllm, and the estimate only where they have none.")  # fmt: skip
@click.option(
    "--tensor-parallel-size",
    type=click.IntRange(*TENSOR_PARALLEL),
    default=1,
    show_default=True,
    help="Of the estimate or the tables.",
)
@click.option(
    "--kv-cache-dtype",
    type=click.Choice(get_args(KvDtype)),
    help="Of the estimate or the tables [default: what the model's config says].",
)
@click.option("--drafter", default="suffix", show_default=True, callback=lambda c, p, v: parse_drafter(v),
              help="suffix (with the flags below), or KIND[:key=value,...]: ngram, last, eagle, eagle3, draft_model, mtp, "
              "parallel, recorded, none, NAME, module:attr; all settings: docs/formats.md.")  # fmt: skip
@drafter_options
@click.option("--siblings", type=click.Choice(get_args(Siblings)), help="When siblings know a rollout's tokens: in the next "
              f"RL step, or at once on a replica, or everywhere [default: {SUFFIX.siblings}].")  # fmt: skip
@click.option("--newest", type=click.IntRange(*NEWEST), help="RL steps that count more, with --newest-weight.")
@click.option("--newest-weight", type=click.IntRange(*NEWEST_WEIGHT), help="How much more they count.")
@click.option("--draft-cost", "cost", help="Measured cost of suffix or n-gram drafting: a name, a file of `calibrate drafter` or "
              f"`validate --seconds`, or none [default: {SUFFIX.cost}, of n-gram none].")  # fmt: skip
@click.option("--policy", "policies", multiple=True,
              help="Budget policy, repeatable: none, fixed:K, unlimited, threshold:K@B, das[:key=value,...], module:attr."
              " The first is the baseline of every speed-up.")  # fmt: skip
@click.option("--system", "systems", multiple=True, metavar="NAME|FILE|all",
              help="A way of doing rollouts, repeatable: a name of `rolloutsim systems`, all of them, or a YAML file of policy, "
              "drafter, placement, loop, stages, transforms, engine; all keys: docs/formats.md. Built-in ones are held against "
              "sync.")  # fmt: skip
@click.option("--stage", "stages", multiple=True, metavar="NAME[:key=value,...]",
              help="What every system does after its rollouts, repeatable: log_probs, update, sync, reward, ... [default beside "
              "a built-in system, where model and device are named: log_probs, update, sync].")  # fmt: skip
@click.option(
    "--steps", callback=lambda c, p, v: parse_steps(v), help="RL steps to simulate, such as 1 or 2,4-7 [default: all]."
)
@click.option("--max-num-seqs", type=click.IntRange(*MAX_NUM_SEQS),
              help=f"Slots of a replica [default: {ENGINE.max_num_seqs}].")  # fmt: skip
@click.option(
    "--replicas", type=click.IntRange(*REPLICAS), help=f"Inference engine instances [default: {ENGINE.replicas}]."
)
@click.option("--dispatch", type=click.Choice(get_args(Dispatch)), help="One queue for all replicas, the rollouts split "
              f"beforehand, or a router [default: {ENGINE.dispatch}].")  # fmt: skip
@click.option("--engine", "limits", metavar="KEY=VALUE", multiple=True,
              help="A limit or switch of the engine by its vLLM name, repeatable: max_num_batched_tokens=8192, "
              "num_gpu_blocks=auto, enable_prefix_caching=true, ...; all: docs/formats.md.")  # fmt: skip
@click.option("--seed", type=click.IntRange(*SEED), default=0, show_default=True, help="Recorded with the results.")
@click.option(
    "--compare", is_flag=True, help="Also give each speed-up an interval, a verdict and the gap that it closes."
)
@click.option("--baseline", help="The policy to compare with [default: the first]; implies --compare.")
@click.option(
    "--bootstrap",
    type=click.IntRange(*BOOTSTRAP),
    help=f"Resamples of prompts [default: {RESAMPLES}]; implies --compare.",
)
@click.option(
    "--profile-error",
    type=Finite(0, 1, max_open=True),
    help="Relative error of the profile, instead of its own; implies --compare.",
)
@click.option("--seeds", type=click.IntRange(*SEEDS),
              help="Seeds from --seed on, for drafters that draw [default: 1]; implies --compare.")  # fmt: skip
@click.option("--print-scenario", is_flag=True, help="Print the scenario file for these flags, and stop.")
@report_options
@output_options
def replay(
    trace: str, profile: str | None, model: str | None, device: str | None, tables: str | None, tensor_parallel_size: int,
    kv_cache_dtype: KvDtype | None, limits: tuple[str, ...], drafter: dict[str, Any], policies: tuple[str, ...],
    systems: tuple[str, ...], stages: tuple[str, ...], steps: list[int] | None, max_num_seqs: int | None,
    replicas: int | None, dispatch: str | None, seed: int, compare: bool, baseline: str | None, bootstrap: int | None,
    profile_error: float | None, seeds: int | None, print_scenario: bool, html: Path | None, timeline: Path | None,
    out: Path | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Simulate the rollouts recorded in TRACE under each --policy and each --system, and compare.

    Every RL step is drafted from the recorded steps in the window before it and from each rollout's own output.
    """
    from simulator.scenario import build

    if (settings["newest"] is None) != (settings["newest_weight"] is None):
        raise click.UsageError("--newest and --newest-weight go together: give both, or none")
    if print_scenario and (as_json or any(file is not None for file in (out, html, timeline))):
        raise click.UsageError("--print-scenario runs nothing: leave --out, --html, --timeline and --json out")
    comparing: dict[str, Any] = {
        "baseline": baseline,
        "bootstrap": bootstrap,
        "profile_error": profile_error,
        "seeds": seeds,
    }
    if not policies and not systems:
        raise click.UsageError("nothing to simulate: give --policy none, or another, or --system NAME")
    comparing = {key: value for key, value in comparing.items() if value is not None}
    with refusing_flags():
        scenario = build({
            "trace": trace, "profile": profile, "model": model, "device": device, "tables": tables,
            "tensor_parallel_size": tensor_parallel_size, "kv_cache_dtype": kv_cache_dtype,
            "policies": list(policies), "systems": _with_baseline(systems, policies),
            "stages": _stages(stages, systems, model), "steps": steps, "seed": seed,
            "drafter": with_flags(drafter, settings),
            "engine": parse_limits(limits, {"max_num_seqs": max_num_seqs, "replicas": replicas, "dispatch": dispatch}),
            "compare": comparing if compare or comparing else None,
        })  # fmt: skip
    if print_scenario:
        click.echo(scenario.yaml(), nl=False)
        return
    _simulate(scenario, html, timeline, out, as_json)


def _with_baseline(systems: tuple[str, ...], policies: tuple[str, ...]) -> list[str]:
    """Built-in systems are held against the plain loop, unless something else comes first."""
    named = bool(systems) and systems[0] in built_in_systems() and systems[0] != BASELINE
    return [BASELINE, *systems] if named and not policies and not {BASELINE, ALL} & {*systems} else [*systems]


def _stages(stages: tuple[str, ...], systems: tuple[str, ...], model: str | None) -> list[str]:
    known = model is not None and any(one == ALL or one in built_in_systems() for one in systems)
    return [*(stages or (TRAINING if known else ()))]


@click.command("run", cls=Quoted)
@click.argument("scenario", metavar="SCENARIO", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, such as engine.replicas=4."
)
@report_options
@output_options
def run_command(
    scenario: Path,
    overrides: tuple[str, ...],
    html: Path | None,
    timeline: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Simulate what the YAML file SCENARIO describes; `replay --print-scenario` writes one."""
    from simulator.scenario import load

    _simulate(load(scenario, list(overrides)), html, timeline, out, as_json)


def _simulate(scenario: "Scenario", html: Path | None, timeline: Path | None, out: Path | None, as_json: bool) -> None:
    from simulator.cli.tables import print_result
    from simulator.replay import run

    check_reports(html, timeline)
    if out is not None:
        from simulator.report.folder import check_folder, write_folder

        check_folder(out)
    result = run(scenario)
    if out is not None:
        write_folder(result, scenario, out)
    reports = [*write_reports(result, scenario, html, timeline)]
    if as_json:
        click.echo(json.dumps(result.document(), allow_nan=False, indent=1))
    else:
        print_result(result, out)
        for line in reports:
            click.echo(line)
