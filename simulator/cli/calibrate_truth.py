"""`rolloutsim calibrate replay` and `validate`: real decoding by the clock, and the simulator held to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.calibrate_kernels import machine_options, progress_of, require_torch, use_threads
from simulator.cli.flags import drafter_options
from simulator.cli.numbers import Count

if TYPE_CHECKING:
    from calibration.truth.compare import Comparison, Verdict
    from simulator.cost.model import Profile


@click.command()
@click.argument("trace", metavar="TRACE")
@machine_options
@drafter_options
@click.option("--policy", "policies", multiple=True, required=True, help="Budget policy that is a table, repeatable.")
@click.option("--profile", required=True, help="Profile that policies plan with.")
@click.option(
    "--step",
    type=Count(0),
    required=True,
    help="RL step to decode; those before it are the drafter's history.",
)
@click.option("--rollouts", type=Count(1), help="Decode the first so many [default: all].")
@click.option("--max-output-tokens", type=Count(1), help="Cut rollouts there.")
@click.option(
    "--context-tokens", type=Count(1), help="KV tokens that every rollout begins with, in place of its prompt."
)
@click.option("--max-num-seqs", type=Count(1, 4096), default=64, show_default=True, help="Sequences at once.")
@click.option("--repeats", type=Count(1), default=1, show_default=True, help="Times that each policy is run.")
@click.option("--seed", type=Count(0), default=0, show_default=True, help="Of weights and of the order of runs.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Ground truth to write, .parquet.")
def replay(
    trace: str, model: str, device: Any, dtype: str | None, threads: int | None, graphs: bool, policies: tuple[str, ...],
    profile: str, step: int, rollouts: int | None, max_output_tokens: int | None, context_tokens: int | None, max_num_seqs: int,
    repeats: int, seed: int, out: Path, **drafter: Any,
) -> None:  # fmt: skip
    """Decode recorded rollouts on a real decoder under each --policy, and write what every step took.

    Each live sequence feeds its last token and its drafts through the model; the recorded tokens decide what is accepted.
    """
    require_torch()
    from calibration.truth.chosen import Choice
    from calibration.truth.ground_truth import write
    from calibration.truth.replay import Settings
    from calibration.truth.replay import replay as decode
    from simulator.catalogue import load_model
    from simulator.cost import load_profile
    from simulator.drafting.suffix import Suffix
    from traces.io import read

    use_threads(threads)
    choice = Choice(step, rollouts, max_output_tokens, context_tokens)
    suffix = Suffix(**{name: value for name, value in drafter.items() if value is not None})
    settings = Settings(
        load_model(model), model, load_profile(profile), policies, choice, max_num_seqs, suffix, device, dtype,
        graphs, repeats, seed,
    )  # fmt: skip
    truth = decode(settings, read(trace), " ".join(["rolloutsim", *sys.argv[1:]]), progress_of("decoding"))
    out.parent.mkdir(parents=True, exist_ok=True)
    write(truth, out)
    for run, steps in zip(truth.runs, truth.steps, strict=True):
        click.echo(f"{run.policy}, run {run.repeat}: {run.makespan_s:.3f} s, {len(steps):,} decode steps")
    click.echo(f"wrote {out}")


@click.command()
@click.argument("truths", metavar="R...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--profile", required=True, help="Profile to hold to the clock.")
@click.option("--trace", help="The trace that was decoded [default: where the runs found it].")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for ground_truth.md, ground_truth.json and a plot."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def validate(truths: tuple[Path, ...], profile: str, trace: str | None, out: Path | None, as_json: bool) -> None:
    """Simulate what `calibrate replay` measured in R, and say how far off each policy's makespan and each step are."""
    from calibration.truth.compare import compare, verdicts
    from calibration.truth.ground_truth import read as read_truth
    from simulator.cost import load_profile
    from traces.io import read

    if out is not None:
        from simulator.report.folder import check_folder

        check_folder(out)
    costs = load_profile(profile)
    found: list[Comparison] = []
    judged: list[Verdict] = []
    for path in truths:
        truth = read_truth(path)
        some = compare(truth, read(trace or truth.about["trace"]), costs)
        found += some
        judged += verdicts(some)
    names = [str(path) for path in truths]
    lines = list(report(costs, found, judged, names, out))
    told = [json.dumps(_document(costs, found, judged, names), allow_nan=False, indent=1)] if as_json else lines
    click.echo("\n".join(told))


def report(
    profile: Profile, found: Sequence[Comparison], judged: Sequence[Verdict], truths: list[str], out: Path | None
) -> Iterator[str]:
    """Lines of the table; where there is a folder, they go there too, with JSON and a plot."""
    lines = list(_markdown(found, judged))
    yield from lines
    if out is None:
        return
    from simulator.report.truth_plots import save_truth_plot
    from traces.atomic import replacing_folder

    told = json.dumps(_document(profile, found, judged, truths), allow_nan=False, indent=1)
    runs = [(one.row(), one.step_live, one.step_context, one.step_measured_s, one.step_simulated_s) for one in found]
    with replacing_folder(out) as scratch:
        for name, text in (("ground_truth.md", "\n".join(lines)), ("ground_truth.json", told)):
            (scratch / name).write_text(f"{text}\n", "utf-8")
        save_truth_plot(runs, profile.device, scratch / "ground_truth.png")
    yield f"table and plot: {out}"


def _document(
    profile: Profile, found: Sequence[Comparison], judged: Sequence[Verdict], truths: list[str]
) -> dict[str, Any]:
    from calibration.truth.compare import document

    about = {"name": profile.name, "device": profile.device, "sha256": profile.sha256}
    return document(found, judged, {"profile": about, "truths": truths})


def _markdown(found: Sequence[Comparison], judged: Sequence[Verdict]) -> Iterator[str]:
    names = ("policy", "live batch", "context", "steps", "measured s", "simulated s", "error", "90 % range s",
             "median step error", "repeats differ")  # fmt: skip
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"
    for one in found:
        yield (
            f"| {one.policy} | {one.live_batch} | {one.context_tokens:,} | {one.steps:,} | {one.measured_s:.3f} | "
            f"{one.simulated_s:.3f} | {one.error:+.1%} | "
            f"{one.low_s:.3f}-{one.high_s:.3f} | {one.median_step_error:.1%} | {one.spread:.1%} |"
        )
    for verdict in judged:
        order = "order kept" if verdict.order_kept else "ORDER NOT KEPT"
        tau = "" if verdict.kendall_tau is None else f", Kendall's tau {verdict.kendall_tau:.2f}"
        yield (
            f"\nlive batch {verdict.live_batch}, context {verdict.context_tokens:,}: {order} among {verdict.policies} policies"
            f"{tau}; fastest {verdict.fastest}, chosen {verdict.chosen}, regret {verdict.regret:.1%}"
        )
    inside = sum(one.low_s <= one.measured_s <= one.high_s for one in found)
    yield f"\n{inside} of {len(found)} measured makespans lie within the 90 % range"
    outside = max(one.outside_fraction for one in found)
    if outside > 0:
        yield f"\nnote: up to {outside:.0%} of a run's simulated time lies outside the profile's range"
