"""`rolloutsim replay` and `rolloutsim run`: simulate recorded rollouts and say what each policy would have taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from simulator.results import Result
    from simulator.scenario import Scenario

Command = Callable[..., Any]


class Finite(click.FloatRange):
    """A float within a range; `nan` is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what compares with nothing."""
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value} is not a number", param, ctx)
        return number


def drafter_options(command: Command) -> Command:
    """Add the flags that describe a suffix drafter."""
    for option in reversed([
        click.option("--scope", type=click.Choice(["problem", "global", "request"]), default="problem", show_default=True,
                     help="Past responses searched: those to the same problem, all, or none."),
        click.option("--own/--no-own", default=True, show_default=True, help="Also search the rollout's own prompt and output."),
        click.option("--match", type=click.Choice(["longest", "scored"]), default="longest", show_default=True,
                     help="Draft from the longest match, or the draft of the highest expected acceptance."),
        click.option("--shape", type=click.Choice(["path", "tree"]), default="path", show_default=True,
                     help="One continuation, or with --match scored a best-first tree of them."),
        click.option("--window", type=click.IntRange(1), default=16, show_default=True, help="RL steps of history."),
        click.option("--depth", type=click.IntRange(2, 255), default=24, show_default=True, help="Longest string known, tokens."),
        click.option("--factor", type=Finite(0, 255, min_open=True), default=1.0, show_default=True,
                     help="Drafted tokens per matched token, at most."),
        click.option("--min-prob", type=Finite(0, 1), default=0.1, show_default=True,
                     help="A draft ends where its path probability falls below."),
    ]):  # fmt: skip
        command = option(command)
    return command


def output_options(command: Command) -> Command:
    """Add the flags that say where results go."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")(command)
    return click.option("--out", type=click.Path(path_type=Path), help="Folder for the result tables and plots.")(
        command
    )


@click.command()
@click.argument("trace", metavar="TRACE")
@click.option("--profile", help="Cost profile: a name from `rolloutsim profile list`, or a file.")
@click.option(
    "--model", help="Model of the catalogue, or its config.json: with --device an estimate in place of a profile."
)
@click.option("--device", help="Device of the catalogue, such as h200.")
@click.option(
    "--tensor-parallel-size", type=click.IntRange(1, 1024), default=1, show_default=True, help="Of the estimate."
)
@click.option("--drafter", default="suffix", show_default=True, callback=lambda c, p, v: parse_drafter(v),
              help="suffix (with the flags below), or KIND[:key=value,...]: ngram, last, eagle, draft_model, mtp, parallel, "
              "recorded, none, NAME, module:attr; all settings: docs/formats.md.")  # fmt: skip
@drafter_options
@click.option("--siblings", type=click.Choice(["next-step", "live"]), default="next-step", show_default=True,
              help="When siblings know a rollout's tokens: in the next RL step, or at once on a replica.")  # fmt: skip
@click.option("--newest", type=click.IntRange(0), default=0, show_default=True, help="RL steps that count more.")
@click.option(
    "--newest-weight", type=click.IntRange(1, 1000), default=1, show_default=True, help="How much more they count."
)
@click.option("--draft-cost", "cost", default="suffix-epyc", show_default=True,
              help="Measured cost of suffix drafting: a name, a file of `rolloutsim calibrate drafter`, or none.")  # fmt: skip
@click.option("--policy", "policies", multiple=True, required=True, callback=lambda c, p, v: _checked_policies(v),
              help="Budget policy, repeatable: none, fixed:K, unlimited, threshold:K@B, das[:key=value,...], module:attr."
              " The first is the baseline of every speed-up.")  # fmt: skip
@click.option(
    "--steps", callback=lambda c, p, v: parse_steps(v), help="RL steps to simulate, such as 1 or 2,4-7 [default: all]."
)
@click.option(
    "--max-num-seqs", type=click.IntRange(1, 1_000_000), default=256, show_default=True, help="Slots of a replica."
)
@click.option(
    "--replicas", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Inference engine instances."
)
@click.option("--dispatch", type=click.Choice(["shared", "static", "round_robin", "least_loaded"]), default="shared",
              show_default=True, help="One queue for all replicas, the rollouts split beforehand, or a router.")  # fmt: skip
@click.option("--engine", "limits", metavar="KEY=VALUE", multiple=True,
              help="A limit or switch of the engine by its vLLM name, repeatable: max_num_batched_tokens=8192, "
              "num_gpu_blocks=auto, enable_prefix_caching=true, ...; all: docs/formats.md.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Recorded with the results.")
@click.option(
    "--compare", is_flag=True, help="Also give each speed-up an interval, a verdict and the gap that it closes."
)
@click.option("--baseline", help="The policy to compare with [default: the first]; implies --compare.")
@click.option(
    "--bootstrap", type=click.IntRange(0, 100_000), help="Resamples of prompts [default: 200]; implies --compare."
)
@click.option(
    "--profile-error",
    type=Finite(0, 1, max_open=True),
    help="Relative error of the profile, instead of its own; implies --compare.",
)
@click.option("--seeds", type=click.IntRange(1, 10_000),
              help="Seeds from --seed on, for drafters that draw [default: 1]; implies --compare.")  # fmt: skip
@click.option("--print-scenario", is_flag=True, help="Print the scenario file for these flags, and stop.")
@output_options
def replay(
    trace: str, profile: str | None, model: str | None, device: str | None, tensor_parallel_size: int, limits: tuple[str, ...],
    drafter: dict[str, Any], policies: tuple[str, ...], steps: list[int] | None, max_num_seqs: int,
    replicas: int, dispatch: str, seed: int, compare: bool, baseline: str | None, bootstrap: int | None,
    profile_error: float | None, seeds: int | None, print_scenario: bool, out: Path | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Simulate the rollouts recorded in TRACE under each --policy and compare makespans.

    Every RL step is drafted from the recorded steps in the window before it and from each rollout's own output.
    """
    from simulator.scenario import build

    if drafter == {"kind": "suffix"}:
        require_source(settings["scope"], settings["own"])
        drafter |= settings
    comparing: dict[str, Any] = {
        "baseline": baseline,
        "bootstrap": bootstrap,
        "profile_error": profile_error,
        "seeds": seeds,
    }
    comparing = {key: value for key, value in comparing.items() if value is not None}
    if baseline is not None and baseline not in policies:
        raise click.UsageError(f"--baseline {baseline!r} is none of the policies: use one of {', '.join(policies)}")
    scenario = build({
        "trace": trace, "profile": profile, "model": model, "device": device, "tensor_parallel_size": tensor_parallel_size,
        "policies": list(policies), "steps": steps, "seed": seed,
        "drafter": drafter,
        "engine": {"max_num_seqs": max_num_seqs, "replicas": replicas, "dispatch": dispatch} | parse_limits(limits),
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


def parse_drafter(text: str) -> dict[str, Any]:
    """Read `kind:key=value,...` into drafter settings; values are YAML, and module:attr is a kind too."""
    from simulator.strict_yaml import load_value
    from traces.errors import InputError

    kind, _, rest = text.partition(":")
    if rest and "=" not in rest.partition(",")[0]:  # module:attr
        attribute, _, rest = rest.partition(",")
        kind = f"{kind}:{attribute}"
    settings: dict[str, Any] = {"kind": kind}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r}: {part!r} is not key=value")
        try:
            settings[key] = load_value(value)
        except InputError as error:
            raise click.BadParameter(f"{text!r}: {error}") from None
    return settings


def require_source(scope: str, own: bool) -> None:
    """Refuse a suffix drafter that has nothing to draft from."""
    if scope == "request" and not own:
        raise click.UsageError("--no-own without a history leaves nothing to draft from: drop one of the two")


def parse_limits(limits: tuple[str, ...]) -> dict[str, Any]:
    """Read KEY=VALUE pairs, values as YAML."""
    from simulator.strict_yaml import load_value

    parsed = {}
    for text in limits:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise click.UsageError(f"--engine {text!r} is not KEY=VALUE: for example max_num_batched_tokens=8192")
        parsed[key] = load_value(value)
    return parsed


def parse_steps(text: str | None) -> list[int] | None:
    """Read `1` or `2,4-7` into a list of RL steps."""
    if text is None:
        return None
    steps: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise click.BadParameter(f"{text!r} is not a list of RL steps: write for example 1 or 2,4-7")
        if dash and int(last) - int(first) > 1_000_000:
            raise click.BadParameter(f"{part.strip()!r} spans over a million RL steps: give fewer")
        steps.extend(range(int(first), int(last or first) + 1))
    return steps


def _checked_policies(specs: tuple[str, ...]) -> tuple[str, ...]:
    from simulator.budgets.resolve import check_spec
    from traces.errors import InputError

    for spec in specs:
        try:
            check_spec(spec)
        except InputError as error:
            raise click.BadParameter(str(error)) from None
        if specs.count(spec) > 1:
            raise click.BadParameter(f"{spec!r} is given twice: name each policy once")
    return specs


def _simulate(scenario: "Scenario", out: Path | None, as_json: bool) -> None:
    from simulator.run import run

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

    runs = result.runs.to_pylist()
    about = result.about
    first = runs[0]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    headings = ("policy", "makespan s", "speed-up", "decode\nsteps", "mean live\nbatch", "mean acc.\nlength",
                "draft acc.\nrate", "wasted\ndrafts", "straggler s")  # fmt: skip
    for heading in headings:
        grid.add_column(heading, justify="left" if heading == "policy" else "right", no_wrap=True)
    for run in runs:
        rate = run["draft_acceptance_rate"]
        grid.add_row(
            Text(run["policy"]), f"{run['makespan_s']:.2f}", f"{run['speedup']:.3f}", f"{run['decode_steps']:,}",
            f"{run['mean_live_batch']:.1f}", f"{run['mean_acceptance_length']:.3f}",
            "-" if rate is None else f"{rate:.3f}", f"{run['wasted_tokens']:,}", f"{run['straggler_s']:.2f}",
        )  # fmt: skip
    console = Console(width=max(Console().width, 120), highlight=False, markup=False)
    console.print(
        f"{about['trace']['path']}: {first['rollouts']:,} rollouts, {first['output_tokens']:,} tokens, "
        f"{first['rl_steps']} RL step(s)\nprofile {about['profile']['name']}, drafter {first['drafter']}"
    )
    console.print(grid)
    for run in runs:
        if told := _served(run, bool(about["arrivals"])):
            console.print(f"{run['policy']}: {told}", soft_wrap=True)
        for step, facts in list(json.loads(run["facts"]).items())[-1:]:
            told = ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()
            )
            console.print(f"{run['policy']} in RL step {step}: {told}", soft_wrap=True)
    if result.comparison:
        console.print(result.comparison.text() + "\n", soft_wrap=True)
    for warning in about["warnings"]:
        console.print(f"note: {warning}", soft_wrap=True)
    if out is not None:
        console.print(f"tables and plots: {out}")


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
