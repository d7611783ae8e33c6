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

LEAST_MOVED = 1.001
"""What moves no makespan by a thousandth is not worth a word."""

if TYPE_CHECKING:
    from rich.table import Table

    from simulator.results import Result
    from simulator.scenario import Scenario


@click.command()
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
              f"RL step, or at once on a replica [default: {SUFFIX.siblings}].")  # fmt: skip
@click.option("--newest", type=click.IntRange(*NEWEST), help="RL steps that count more, with --newest-weight.")
@click.option("--newest-weight", type=click.IntRange(*NEWEST_WEIGHT), help="How much more they count.")
@click.option("--draft-cost", "cost", help="Measured cost of suffix or n-gram drafting: a name, a file of `calibrate drafter` or "
              f"`validate --seconds`, or none [default: {SUFFIX.cost}, of n-gram none].")  # fmt: skip
@click.option("--policy", "policies", multiple=True,
              help="Budget policy, repeatable: none, fixed:K, unlimited, threshold:K@B, das[:key=value,...], module:attr."
              " The first is the baseline of every speed-up.")  # fmt: skip
@click.option("--system", "systems", multiple=True, metavar="FILE",
              help="A way of doing rollouts, repeatable: a YAML file of policy, drafter, placement, loop, stages, engine; "
              "all keys: docs/formats.md.")  # fmt: skip
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
@output_options
def replay(
    trace: str, profile: str | None, model: str | None, device: str | None, tables: str | None, tensor_parallel_size: int,
    kv_cache_dtype: KvDtype | None, limits: tuple[str, ...], drafter: dict[str, Any], policies: tuple[str, ...],
    systems: tuple[str, ...], steps: list[int] | None, max_num_seqs: int | None, replicas: int | None, dispatch: str | None,
    seed: int, compare: bool, baseline: str | None, bootstrap: int | None, profile_error: float | None, seeds: int | None,
    print_scenario: bool, out: Path | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Simulate the rollouts recorded in TRACE under each --policy and each --system, and compare.

    Every RL step is drafted from the recorded steps in the window before it and from each rollout's own output.
    """
    from simulator.scenario import build

    if (settings["newest"] is None) != (settings["newest_weight"] is None):
        raise click.UsageError("--newest and --newest-weight go together: give both, or none")
    if print_scenario and (out is not None or as_json):
        raise click.UsageError("--print-scenario runs nothing: leave --out and --json out")
    comparing: dict[str, Any] = {
        "baseline": baseline,
        "bootstrap": bootstrap,
        "profile_error": profile_error,
        "seeds": seeds,
    }
    if not policies and not systems:
        raise click.UsageError("nothing to simulate: give --policy none, or another, or --system FILE")
    comparing = {key: value for key, value in comparing.items() if value is not None}
    with refusing_flags():
        scenario = build({
            "trace": trace, "profile": profile, "model": model, "device": device, "tables": tables,
            "tensor_parallel_size": tensor_parallel_size, "kv_cache_dtype": kv_cache_dtype,
            "policies": list(policies), "systems": list(systems), "steps": steps, "seed": seed,
            "drafter": with_flags(drafter, settings),
            "engine": parse_limits(limits, {"max_num_seqs": max_num_seqs, "replicas": replicas, "dispatch": dispatch}),
            "compare": comparing if compare or comparing else None,
        })  # fmt: skip
    if print_scenario:
        click.echo(scenario.yaml(), nl=False)
        return
    _simulate(scenario, out, as_json)


@click.command("run")
@click.argument("scenario", metavar="SCENARIO", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, such as engine.replicas=4."
)
@output_options
def run_command(scenario: Path, overrides: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Simulate what the YAML file SCENARIO describes; `replay --print-scenario` writes one."""
    from simulator.scenario import load

    _simulate(load(scenario, list(overrides)), out, as_json)


def _simulate(scenario: "Scenario", out: Path | None, as_json: bool) -> None:
    from simulator.replay import run

    if out is not None:
        from simulator.report.folder import check_folder, write_folder

        check_folder(out)
    result = run(scenario)
    if out is not None:
        write_folder(result, scenario, out)
    if as_json:
        click.echo(json.dumps(result.document(), allow_nan=False, indent=1))
    else:
        _print(result, out)


def _print(result: "Result", out: Path | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from simulator.cost.errors import Source, in_words

    runs = result.runs.to_pylist()
    about = result.about
    first = runs[0]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    kind = "system" if any(run["system"] != run["policy"] for run in runs) else "policy"
    headings = (kind, "makespan s", "90 %\nrange s", "speed-up", "decode\nsteps", "mean live\nbatch", "mean acc.\nlength",
                "draft acc.\nrate", "wasted\ndrafts", "straggler s")  # fmt: skip
    for heading in headings:
        grid.add_column(heading, justify="left" if heading == kind else "right", no_wrap=True)
    for run in runs:
        rate = run["draft_acceptance_rate"]
        grid.add_row(
            Text(run["system"]), f"{run['makespan_s']:.2f}", f"{run['makespan_low_s']:.2f}-{run['makespan_high_s']:.2f}",
            f"{run['speedup']:.3f}", f"{run['decode_steps']:,}",
            f"{run['mean_live_batch']:.1f}", f"{run['mean_acceptance_length']:.3f}",
            "-" if rate is None else f"{rate:.3f}", f"{run['wasted_tokens']:,}", f"{run['straggler_s']:.2f}",
        )  # fmt: skip
    console = Console(width=max(Console().width, 120), highlight=False, markup=False)
    console.print(
        f"{about['trace']['path']}: {first['rollouts']:,} rollouts, {first['output_tokens']:,} tokens, "
        f"{first['rl_steps']} RL step(s)\nprofile {about['profile']['name']}, drafter {first['drafter']}"
    )
    console.print(grid)
    if any(run["stages"] or run["loop"] != "sync" or run["placement"] != first["placement"] for run in runs):
        console.print(_where_time_goes(result))
    for run in runs:
        if told := _served(run, bool(about["arrivals"])):
            console.print(f"{run['system']}: {told}", soft_wrap=True)
        for step, facts in list(json.loads(run["facts"]).items())[-1:]:
            told = ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()
            )
            console.print(f"{run['system']} in RL step {step}: {told}", soft_wrap=True)
    if result.comparison:
        console.print(result.comparison.text() + "\n", soft_wrap=True)
    moving = {
        name for run in runs for name, ends in json.loads(run["errors"]).items() if max(ends) > LEAST_MOVED * min(ends)
    }
    sources = in_words(Source(**one) for one in about["errors"] if one["name"] in moving)
    console.print(f"90 % range: {'; '.join(sources)}", soft_wrap=True)
    for warning in about["warnings"]:
        console.print(f"note: {warning}", soft_wrap=True)
    if out is not None:
        console.print(f"tables and plots: {out}")


def _where_time_goes(result: "Result") -> "Table":
    """Seconds of the run by what took them, and what its rollouts were worth."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    headings = ("system", "RL\nsteps", "run s", "speed-up", "rollout s", "reward s", "train s", "sync s", "samples\nper s",
                "idle\nGPUs", "stale-\nness", "carried", "recomputed\ntokens")  # fmt: skip
    for heading in headings:
        grid.add_column(heading, justify="left" if heading == "system" else "right", no_wrap=True)
    reward_s = result.rl_steps.group_by("system").aggregate([("reward_s", "sum")]).to_pylist()
    waited_s = {row["system"]: row["reward_s_sum"] for row in reward_s}
    for run in result.runs.to_pylist():
        grid.add_row(
            Text(run["system"]), str(run["rl_steps"]), f"{run['run_s']:.2f}", f"{run['run_speedup']:.3f}",
            f"{run['makespan_s']:.2f}", f"{waited_s[run['system']]:.2f}", f"{run['train_s']:.2f}", f"{run['sync_s']:.2f}",
            f"{run['samples_per_s']:.2f}", f"{run['idle_gpu_s'] / (run['gpus'] * run['run_s']):.0%}",
            f"{run['staleness']:.2f}", f"{run['carried']:,}", f"{run['recomputed_tokens']:,}",
        )  # fmt: skip
    return grid


def _served(run: dict[str, Any], arrivals: bool) -> str:
    """What a serving engine's log would say: latencies where rollouts arrive, and what KV blocks did."""
    names = [name for name in ("ttft", "tpot", "latency") if arrivals and run[f"{name}_s"] is not None]
    parts = [
        f"{name if name == 'latency' else name.upper()} {run[f'{name}_s']:.4g} s (p99 {run[f'{name}_p99_s']:.4g})"
        for name in names
    ]
    if run["preemptions"]:
        parts.append(f"{run['preemptions']:,} preemptions")
    if run["cached_tokens"]:
        parts.append(f"{run['cached_tokens']:,} tokens from the prefix cache")
    return ", ".join(parts)
