"""How many measured makespans lie in the stated 90 % range: `python -m tests.benchmarks.coverage`.

No range is fitted to the makespans that it is held to. Of recordings, whose costs come from runs, each configuration is predicted
from the others in turn. GPU runs are read from $ROLLOUTSIM_DATA, where that is.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scipy.stats import binomtest

from calibration.imports.llmservingsim import import_llmservingsim
from calibration.live import recording, seconds
from calibration.replay_run import simulate_run
from calibration.runs.read import read_run
from calibration.runs.settled import settle
from calibration.truth.compare import Comparison, compare
from calibration.truth.ground_truth import read as read_truth
from calibration.validation import compare as compare_run
from simulator.catalogue import load_model
from simulator.compare.sensitivity import span
from simulator.cost import load_profile
from simulator.cost.model_config import model_shape
from traces.io import read

ROOT = Path(__file__).parents[2]
RECORDINGS = ("timed", "recorded")
GPUS = ("RTXPRO6000", "RTX4090")
MODEL = "llama-3.1-8b"


class Held(NamedTuple):
    """A measured makespan, seconds, or speed-up, and the range that was stated for it."""

    of: str
    run: str
    measured: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        return self.low <= self.measured <= self.high


def ground_truth(scale: float = 1.0) -> Iterator[list[Comparison]]:
    """The shipped ground truth, 5 policies of the harness's decoder at each of 4 batches; `scale`: of the profile's seconds."""
    profile = load_profile("epyc-dense-4-layers").scaled(scale)
    for path in sorted((ROOT / "calibration/ground_truth").glob("epyc-*.parquet")):
        truth = read_truth(path)
        yield compare(truth, read(str(ROOT / truth.about["trace"])), profile)


def makespans(found: Sequence[list[Comparison]]) -> Iterator[Held]:
    """The makespan of each policy."""
    for one in itertools.chain(*found):
        yield Held("CPU ground truth", f"{one.policy}@{one.live_batch}", one.measured_s, one.low_s, one.high_s)


def speedups(found: Sequence[list[Comparison]]) -> Iterator[Held]:
    """Each policy over the first one on the same slots, as `--compare` bounds it: what they share cancels."""
    for base, *others in found:
        for one in others:
            low, high = span([a - b for a, b in zip(base.moved, one.moved, strict=True)])
            simulated, measured = base.simulated_s / one.simulated_s, base.measured_s / one.measured_s
            name = f"{one.policy}@{one.live_batch}"
            yield Held("CPU ground truth, speed-ups", name, measured, low * simulated, high * simulated)


def on_gpus(data: Path) -> Iterator[Held]:
    """vLLM 0.19 on two GPUs, at kernel tables measured apart from it."""
    config = load_model(MODEL)
    for gpu in GPUS:
        run = read_run(data / f"vllm_runs/{gpu}-Llama-3.1-8B")
        profile = import_llmservingsim(data / f"profiles/llmservingsim/{gpu}/Llama-3.1-8B/bf16", config)
        simulated = simulate_run(run, settle(run, model_shape(config), None, ()).facts, profile, None, "round_robin")
        one = next(one for one in compare_run(run, simulated) if one.metric == "makespan_s")
        assert one.low is not None
        assert one.high is not None
        yield Held("vLLM on GPUs", gpu, one.measured, one.low, one.high)


def recorded(name: str) -> Iterator[Held]:
    """vLLM 0.32 on a CPU: each configuration at costs from the other configurations of the recording."""
    runs = seconds.repeated(recording.read(ROOT / "tests/calibration/live" / name))
    for configuration in dict.fromkeys(run.runs[0].name for run in runs):
        fitted = [run.label for run in runs if run.runs[0].name != configuration]
        for one in seconds.predict(seconds.fit(runs, fitted, MODEL), runs, fitted):
            if not one.fitted:
                low_s, high_s = (factor * one.simulated_s for factor in one.factors)
                yield Held(f"vLLM on a CPU, {name}", one.run.label, one.run.measured_s, low_s, high_s)


def lines(found: Sequence[Held]) -> Iterator[str]:
    """Every run that lies outside, then the count of each set and of all, with its exact 95 % interval."""
    for one in found:
        if not one.inside:
            yield f"outside: {one.of}, {one.run}: {one.measured:.3f} measured, {one.low:.3f} to {one.high:.3f} stated"
    sets = [(name, list(those)) for name, those in itertools.groupby(found, lambda one: one.of)]
    for name, those in [*sets, ("all", list(found))] if len(sets) > 1 else sets:
        inside = sum(one.inside for one in those)
        span = binomtest(inside, len(those)).proportion_ci(method="exact")
        yield (
            f"{name:<28}{inside:>4} of {len(those):>3} = {inside / len(those):.0%}, as good as a true share of "
            f"{span.low:.0%} to {span.high:.0%}"
        )


def main() -> None:
    """Print the coverage of everything at hand."""
    data = Path(os.environ.get("ROLLOUTSIM_DATA", ROOT.parent / "shared"))
    truth = list(ground_truth())
    found = list(makespans(truth))
    if (data / "vllm_runs").is_dir():
        found += on_gpus(data)
    else:
        print(f"left out: vLLM on GPUs, whose logs are not in {data}: set ROLLOUTSIM_DATA")
    for name in RECORDINGS:
        found += recorded(name)
    print("\n".join([*lines(found), *lines(list(speedups(truth)))]))


if __name__ == "__main__":
    main()
