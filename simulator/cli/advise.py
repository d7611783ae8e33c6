"""`rolloutsim advise`: whether to draft on an engine, with what, and how sure that is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from simulator.cli.flags import parse_drafter, parse_limits, parse_steps, refusing_flags
from simulator.cli.numbers import Count, Finite
from simulator.cli.reports import check_reports
from simulator.limits import BOOTSTRAP, ENGINE, MAX_NUM_SEQS, REPLICAS, RESAMPLES, SEED, TENSOR_PARALLEL, KvDtype
from simulator.progress import doing

if TYPE_CHECKING:
    from simulator.advise.advice import Advice
    from simulator.advise.judge import Judged

NO_GAIN = 5
"""Exit code with --fail-if-no-gain."""


@click.command()
@click.argument("trace", metavar="TRACE")
@click.option(
    "--model", help="Model of the catalogue, or its config.json: with --device an estimate in place of a profile."
)
@click.option("--device", help="Device of the catalogue, such as h200, or a YAML file of its figures.")
@click.option("--profile", help="Cost profile: a name from `rolloutsim profile list`, or a file.")
@click.option(
    "--tables", metavar="ENGINE[==VERSION]", help="With --model and --device: costs from installed tables of kernels."
)
@click.option("--tensor-parallel-size", type=Count(*TENSOR_PARALLEL), default=1, show_default=True,
              help="Of the estimate or the tables.")  # fmt: skip
@click.option("--kv-cache-dtype", type=click.Choice(get_args(KvDtype)), help="Of the estimate or the tables.")
@click.option("--engine", "engines", metavar="NAME[==VERSION]|KEY=VALUE", multiple=True,
              help="vllm or sglang, which runs the choice [default: vllm]; and, repeatable, a limit or switch of it, as for "
              "`replay`.")  # fmt: skip
@click.option(
    "--framework", help="In whose own keys settings are given: verl, slime, nemo-rl, skyrl, trl, prime-rl, roll."
)
@click.option("--drafter", "drafters", multiple=True, callback=lambda c, p, v: [parse_drafter(one) for one in v],
              help="Try this one, repeatable: ngram, suffix (the engine's own), proposer (rolloutsim's in vLLM), or "
              "KIND:key=value,... as for `replay`: eagle3:curve=[0.8,0.7] [default: all without a trained head].")  # fmt: skip
@click.option("--draft-model", help="What a drafter that is a model loads.")
@click.option("--policy", "policies", multiple=True, help="Try this budget policy, repeatable [default: several].")
@click.option(
    "--steps", callback=lambda c, p, v: parse_steps(v), help="RL steps to use: the later half judges [default: all]."
)
@click.option("--max-num-seqs", type=Count(*MAX_NUM_SEQS), help=f"Slots of a replica [default: {ENGINE.max_num_seqs}].")
@click.option("--replicas", type=Count(*REPLICAS), help=f"Inference engine instances [default: {ENGINE.replicas}].")
@click.option(
    "--bootstrap",
    type=Count(2, BOOTSTRAP.most),
    default=RESAMPLES,
    show_default=True,
    help="Resamples of prompts.",
)
@click.option(
    "--profile-error", type=Finite(0, 1, max_open=True), help="Relative error of the costs, instead of their own."
)
@click.option("--seed", type=Count(*SEED), default=0, show_default=True, help="Recorded with the results.")
@click.option("--fail-if-no-gain", is_flag=True, help=f"Exit with {NO_GAIN} unless the answer is to enable it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write one HTML page about the run that judged."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for advice.json, tables and plots of what judged.")
def advise(
    trace: str, model: str | None, device: str | None, profile: str | None, tables: str | None, tensor_parallel_size: int,
    kv_cache_dtype: KvDtype | None, engines: tuple[str, ...], framework: str | None, drafters: list[dict[str, Any]],
    draft_model: str | None, policies: tuple[str, ...], steps: list[int] | None, max_num_seqs: int | None, replicas: int | None,
    bootstrap: int, profile_error: float | None, seed: int, fail_if_no_gain: bool, as_json: bool, html: Path | None,
    out: Path | None,
) -> int:  # fmt: skip
    """Say whether to draft for rollouts like those in TRACE, with what, what is gained, and the settings that do it.

    Candidates are searched on earlier RL steps, and the best of them is judged on later ones, of one RL step on the other half of
    its prompts. The answer comes first: enable, do not enable, or cannot tell, and then what would settle it.
    """
    from simulator.advise.advice import advise as advised
    from simulator.advise.candidates import Place
    from simulator.deploy.settings import parse_engine
    from simulator.report.folder import check_folder, write_files
    from simulator.report.page.write import write as write_page
    from simulator.scenario import build
    from traces.atomic import replacing_folder
    from traces.io import read

    name, limits = _engine(engines)
    _check_policies(policies)
    with refusing_flags():
        base = build({
            "trace": trace, "profile": profile, "model": model, "device": device, "tables": tables,
            "tensor_parallel_size": tensor_parallel_size, "kv_cache_dtype": kv_cache_dtype, "policies": ["none"],
            "drafter": {"kind": "none"}, "steps": steps, "seed": seed,
            "engine": parse_limits(limits, {"max_num_seqs": max_num_seqs, "replicas": replicas}),
        })  # fmt: skip
    if out is not None:
        check_folder(out)
    check_reports(html, None)  # which may be in that folder
    place = Place(base, parse_engine(name), framework, draft_model)
    with (
        redirect_stdout(sys.stderr),
        doing("advising") as work,
    ):  # what somebody's policy prints is no part of the answer

        def told(what: str) -> None:
            work.what = what

        found = advised(place, read(trace), drafters, policies, bootstrap, profile_error, told)
    if out is not None:
        with replacing_folder(out) as scratch:
            if found.result is not None and found.scenario is not None:
                write_files(found.result, found.scenario, scratch)
            (scratch / "advice.json").write_text(
                json.dumps(found.document(), allow_nan=False, indent=1) + "\n", "utf-8"
            )
    if html is not None and found.result is not None and found.scenario is not None:
        write_page(found.result, found.scenario, html, found.command or "")
    click.echo(json.dumps(found.document(), allow_nan=False, indent=1) if as_json else "\n".join(_lines(found)))
    return NO_GAIN if fail_if_no_gain and found.verdict.answer != "enable" else 0


def _check_policies(policies: tuple[str, ...]) -> None:
    """Refuse what is no policy, and no drafts, which all others are held against."""
    from simulator.budgets.resolve import check_spec
    from traces.errors import InputError

    for number, one in enumerate(policies):
        if one == "none" or one in policies[:number]:
            told = "is what all others are held against" if one == "none" else "is named twice"
            raise click.UsageError(f"--policy {one} {told}: leave it out")
        try:
            check_spec(one)
        except InputError as error:
            raise click.UsageError(f"--policy: {error}") from None


def _engine(engines: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Which engine, and its limits."""
    limits = tuple(one for one in engines if "=" in one.replace("==", ""))
    named = [one for one in engines if one not in limits]
    if len(named) > 1:
        raise click.UsageError(f"--engine {named[0]} and --engine {named[1]}: settings are for one engine: name one")
    for one in limits:
        if one.partition("=")[0] in ("vllm", "sglang"):
            raise click.UsageError(f"--engine {one}: write {one.replace('=', '==', 1)}")
    return named[0] if named else "vllm", limits


def _lines(found: Advice) -> Iterator[str]:
    """The answer first, then what it rests on."""
    yield f"{found.verdict.answer.upper()}: {found.verdict.why}"
    yield from (f"  what would settle it: {one}" for one in found.verdict.settles)
    if found.choice is None or found.split is None:
        return
    judged, searched = found.split.judged.steps, found.split.searched.steps
    from simulator.advise.command import steps_text

    where = f"RL step(s) {steps_text(judged)}, chosen on {steps_text(searched)}"
    if found.split.by == "prompts":
        where = f"one half of the prompts of RL step {judged[0]}, chosen on the other"
    yield ""
    yield f"gain       {_gain(found.choice)}"
    yield f"           {found.choice.none_s:.2f} s without drafts, {found.choice.makespan_s:.2f} s with; on {where}"
    if found.runner_up is not None:
        yield f"runner-up  {found.runner_up.candidate.name}: {_gain(found.runner_up)}"
    if found.verdict.answer != "do not enable":
        yield from _settings(found)
    yield ""
    yield from (f"assumed: {one}" for one in found.assumed)
    yield from (f"left out: {name}: {why}" for name, why in found.left_out.items())
    if found.command is not None:
        yield f"again: {found.command}"


def _settings(found: Advice) -> Iterator[str]:
    assert found.choice is not None, "there is something to set"
    settings = found.choice.candidate.settings
    yield f"\nsettings of {settings.engine}" + (f" in {settings.framework}" if settings.framework else "")
    if settings.install:
        yield f"  pip install {' '.join(settings.install)}"
    if settings.snippet is None:
        yield f"  {settings.shell}"
    else:
        yield from (f"  {line}" for line in settings.snippet.splitlines())
    for name, text in settings.files.items():
        yield f"  {name}: {text}"
    yield from (f"  {check.level}: {check.text}" for check in settings.checks)


def _gain(one: Judged) -> str:
    def between(ends: tuple[float, float]) -> str:
        return f"{ends[0]:.2f} to {ends[1]:.2f}"

    closed = "" if one.closed is None else f"; {one.closed:.0%} of what any budgets could gain"
    return (f"{one.speedup:.2f} times, 90 % range {between(one.ends)} (draws of prompts {between(one.sampling)}, errors of costs "
            f"{between(one.costs)}){closed}")  # fmt: skip
