"""A profile, ground truth beside it and how far apart they are, in one go: what a GPU is rented for."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from calibration.kernels.measure import Progress, drift, measure
from calibration.kernels.measure import Settings as KernelSettings
from calibration.truth import ground_truth
from calibration.truth.chosen import Choice, check_step
from calibration.truth.compare import Comparison, Verdict, compare, verdicts
from calibration.truth.replay import Settings, replay
from simulator.cost.model import Profile
from simulator.drafting.suffix import Suffix
from traces.trace import Trace

POLICIES = ("none", "fixed:2", "fixed:4", "unlimited", "das")
QUEUE = 2
"""Rollouts for each slot where their own prompts are prefilled, so that some wait and come in beside others that decode."""


@dataclass(frozen=True)
class Place:
    """Where policies are decoded: sequences at once, and KV tokens that each begins with (None: its own prompt)."""

    live: int
    context_tokens: int | None = None

    @property
    def name(self) -> str:
        """In file names."""
        return f"{self.live}" if self.context_tokens is None else f"{self.live}x{self.context_tokens}"


PLACES = {
    "cpu": (Place(1), Place(4), Place(16), Place(64)),
    "cuda": (
        Place(8, 1024),
        Place(8, 16384),
        Place(64, 1024),
        Place(64, 8192),
        Place(256, 1024),
        Place(256, 2048),
        Place(64),
    ),
}


@dataclass(frozen=True, eq=False)
class Report:
    """What came of it: the profile, a comparison for each place and policy, a verdict for each place.

    drift: share by which whole steps take longer in the end than when the profile was measured.
    """

    profile: Profile
    comparisons: list[Comparison]
    verdicts: list[Verdict]
    drift: float


def campaign(
    kernels: KernelSettings, trace: Trace, step: int, places: tuple[Place, ...], policies: tuple[str, ...], folder: Path,
    max_output_tokens: int, repeats: int, command: str, tell: Callable[[str], object], progress: Progress = iter,
) -> Report:  # fmt: skip
    """Measure what is not in `folder` yet: profile.parquet, and a ground truth for each place; then compare.

    Raises InputError where settings cannot be had on this machine, or files in the folder are of something else.
    """
    check_step(trace, step)
    folder.mkdir(parents=True, exist_ok=True)
    profile = measure(kernels, folder / "profile.parquet", progress)
    tell(f"profile: {profile.uncertainty}")
    for repeat in range(repeats):  # places in turn: a machine that is slow for a while is slow for one repeat of each
        for place, path in _files(places, folder):
            rollouts = min(place.live * (1 if place.context_tokens else QUEUE), int((trace.step == step).sum()))
            choice = Choice(step, rollouts, max_output_tokens, place.context_tokens)
            before = ground_truth.read(path) if path.exists() else None
            if before is not None:
                asked = {
                    "model": kernels.name,
                    "policies": policies,
                    "choice": asdict(choice),
                    "trace_sha256": trace.sha256,
                }
                ground_truth.check_of(before, asked, path)
                if any(run.repeat == repeat for run in before.runs):
                    continue
            settings = Settings(
                kernels.config, kernels.name, profile, policies, choice, place.live, Suffix(), kernels.device, kernels.dtype,
                kernels.graphs, 1, kernels.seed,
            )  # fmt: skip
            new = replay(settings, trace, command)
            ground_truth.write(new if before is None else ground_truth.joined(before, new, repeat), path)
            gc.collect()
            torch.cuda.empty_cache()
    found: list[Comparison] = []
    judged: list[Verdict] = []
    for place, path in _files(places, folder):
        some = compare(ground_truth.read(path), trace, profile)
        for one in some:
            told = f"measured {one.measured_s:.3f} s, simulated {one.simulated_s:.3f} s, {one.error:+.1%}"
            tell(f"{place.name}, {one.policy}: {told}")
        found += some
        judged += verdicts(some)
    drifted = drift(kernels, folder / "profile.parquet")
    tell(f"whole steps measured again: {drifted:+.1%} beside those of the profile")
    return Report(profile, found, judged, drifted)


def _files(places: tuple[Place, ...], folder: Path) -> Iterator[tuple[Place, Path]]:
    for place in places:
        yield place, folder / f"truth-{place.name}.parquet"
