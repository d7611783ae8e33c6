"""What the trainer does with an RL step's rollouts, and how its weights reach the replicas."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from simulator.cost.shape import ModelShape
from simulator.spec import number, read, whole
from simulator.training.stage import Float64, Per, Prices, Rollouts
from traces.errors import InputError

MFU = 0.4
"""Share of a device's peak that training reaches unless told otherwise: an assumption."""
FORWARD, TRAIN = 2, 6
"""FLOPs per active parameter and token: of a forward pass, and of one with its backward pass (twice as much again)."""


@dataclass(frozen=True)
class Pass:
    """A pass over all tokens of the RL step's rollouts, at so many seconds a token, and so many for a whole batch."""

    name: str
    s_per_token: float
    basis: str
    fixed_s: float = 0.0
    per: Per = "batch"
    scoring: float = 0.0

    def seconds(self, rollouts: Rollouts) -> float:
        """Of the batch, or a part of it."""
        return self.fixed_s * rollouts.share + self.s_per_token * rollouts.tokens


@dataclass(frozen=True)
class WeightSync:
    """New weights on their way to the replicas."""

    seconds_s: float
    basis: str
    name = "sync"
    per: Per = "sync"

    def seconds(self, rollouts: Rollouts) -> float:
        """Whatever the rollouts."""
        return self.seconds_s


@dataclass(frozen=True)
class DrafterTraining:
    """A drafter that learns from rollouts as they finish, one after another, with a new version for every so many."""

    seconds_s: float
    s_per_token: float
    every: int
    name = "drafter"
    per: Per = "drafter"
    basis = "given"
    servers = 1

    def seconds(self, rollouts: Rollouts) -> Float64:
        """Of each rollout."""
        return np.asarray(self.seconds_s + self.s_per_token * rollouts.output_tokens, np.float64)


SECONDS = number(0, 1e6)
PASS_READERS = {"seconds": SECONDS, "s_per_token": number(0, 1), "passes": whole(1, 1000), "mfu": number(0.001, 1)}


def log_probs(argument: str, prices: Prices | None) -> Pass:
    """`log_probs:passes=N,mfu=F|seconds=S|s_per_token=S`: forward passes over the rollouts (old and reference policy: passes=2).

    Without seconds the profile's measured pass (`logprob_pass_s_per_token`), spread over the GPUs that train; where it has
    none, 2 FLOPs a parameter and token at `mfu` of the device's peak.
    """  # fmt: skip
    given = read("log_probs", argument, PASS_READERS, "stage")
    return replace(_priced("log_probs", given, prices, FORWARD), scoring=1 / given.get("passes", 1))


def update(argument: str, prices: Prices | None) -> Pass:
    """`update:passes=EPOCHS,mfu=F|seconds=S|s_per_token=S`: forward and backward passes.

    Without seconds 6 FLOPs an active parameter and token at `mfu` of the device's peak, on the GPUs that train.
    """
    given = read("update", argument, PASS_READERS, "stage")
    return _priced("update", given, prices, TRAIN)


def refresh(argument: str, prices: Prices | None) -> Pass:
    """`refresh:passes=N,mfu=F|seconds=S|s_per_token=S`: a small module beside the policy learns from its rollouts.

    Priced as `log_probs` is: the policy is run forward, what the module itself takes is left out.
    """
    given = read("refresh", argument, PASS_READERS, "stage")
    return _priced("refresh", given, prices, FORWARD)


def sync(argument: str, prices: Prices | None) -> WeightSync:
    """`sync:seconds=S|gb_per_s=B`: the model's weights over a link of so many GB/s (default: the device's own)."""
    given = read("sync", argument, {"seconds": SECONDS, "gb_per_s": number(0.001, 1e6)}, "stage")
    if "seconds" in given or prices is None:
        return WeightSync(given.get("seconds", 0.0), "given")
    shape, device = _known("sync", prices)
    given_b = "gb_per_s" in given
    bytes_per_s = 1e9 * given["gb_per_s"] if given_b else float(device["link_bandwidth_bytes_per_s"])
    over = f"{bytes_per_s / 1e9:g} GB/s{'' if given_b else ' of the device, assumed'}"
    return WeightSync(
        shape.weight_bytes / bytes_per_s, f"assumed: {shape.weight_bytes / 1e9:.1f} GB of weights at {over}"
    )


def drafter(argument: str, prices: Prices | None) -> DrafterTraining:
    """`drafter:seconds=S,s_per_token=S,every=N`: seconds to learn a rollout, and one token; N rollouts make a version."""
    readers = {"seconds": SECONDS, "s_per_token": number(0, 1), "every": whole(1)}
    given = read("drafter", argument, readers, "stage")
    return DrafterTraining(given.get("seconds", 0.0), given.get("s_per_token", 0.0), given.get("every", 1))


def forward_pass(name: str, given: Mapping[str, Any], log_probs: str, prices: Prices) -> Pass:
    """One forward pass of the trainer: at a given price, else as stage `log_probs` with these settings prices one."""
    alike = {
        key: value for key, value in read("log_probs", log_probs, PASS_READERS, "stage").items() if key != "passes"
    }
    return _priced(name, given or alike, prices, FORWARD)


def _priced(name: str, given: Mapping[str, Any], prices: Prices | None, flops: int) -> Pass:
    passes = given.get("passes", 1)
    if "seconds" in given or "s_per_token" in given or prices is None:
        return Pass(name, passes * given.get("s_per_token", 0.0), "given", passes * given.get("seconds", 0.0))
    measured = prices.profile.measured.get("logprob_pass_s_per_token")
    if flops == FORWARD and measured is not None and "mfu" not in given:
        return Pass(name, passes * measured / prices.train_gpus, f"measured: profile {prices.profile.name}")
    shape, device = _known(name, prices)
    mfu = given.get("mfu", MFU)
    flops_per_s = prices.train_gpus * mfu * float(device["peak_flops_per_s"])
    how = f"{flops} FLOPs a parameter and token at {mfu:.0%} of {prices.train_gpus} GPU(s)' peak"
    return Pass(name, passes * flops * shape.active_parameters / flops_per_s, f"assumed: {how}")


def _known(name: str, prices: Prices) -> tuple[ModelShape, Mapping[str, Any]]:
    if prices.shape is None or prices.device is None:
        _unpriced(name)
    return prices.shape, prices.device


def _unpriced(name: str) -> NoReturn:
    raise InputError(f"stage {name} has no price: name model and device to derive one, or say it: {name}:seconds=10")
