"""Chooses what a decoder runs on: device, precision, attention kernel, sizes of CUDA graphs."""

from __future__ import annotations

import bisect
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from calibration.model.decoder import Decoder
from calibration.model.flash import DecodeAttention
from calibration.model.layers import PLAIN, Kernels
from calibration.model.runner import PlannedKernel
from simulator.engine.serving import LARGEST_GRAPH, capture_sizes
from traces.errors import InputError

if TYPE_CHECKING:
    from calibration.kernels.grid import Limits

SPARE = 128
"""Tokens that a context may have beyond the longest one measured: drafts, and rounding up."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device_of(name: str) -> torch.device:
    """The device with this name, if there is one here."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device = 'cuda': torch finds no GPU here: use --device cpu, or a CUDA build of torch on a machine with one"
        )
    if name not in ("cpu", "cuda"):
        raise InputError(f"device = {name!r}: use cpu or cuda")
    return torch.device(name)


def graph_sizes(device: torch.device, wanted: bool, most_tokens: int = LARGEST_GRAPH) -> tuple[int, ...]:
    """Numbers of tokens that CUDA graphs are captured for: vLLM's, up to the first that holds `most_tokens`; none on a CPU."""
    if not wanted or device.type != "cuda":
        return ()
    sizes = capture_sizes(LARGEST_GRAPH)
    return sizes[: bisect.bisect_left(sizes, most_tokens) + 1]


def kernels_of(device: torch.device) -> Kernels:
    """What layers do between their products: fused on a GPU where there is triton, else in plain torch."""
    if device.type != "cuda" or find_spec("triton") is None:
        return PLAIN
    from calibration.model.fused import FUSED

    return FUSED


def decode_kernel(decoder: Decoder, limits: Limits) -> PlannedKernel | None:
    """The GPU's attention kernel of sequences that decode; None on a CPU, where they are attended to one after the other."""
    if decoder.device.type != "cuda":
        return None
    shape = decoder.shape
    tokens = max(limits.max_num_seqs * limits.max_width, LARGEST_GRAPH)
    return DecodeAttention(
        shape.heads, shape.kv_heads, shape.head_dim, max(limits.max_num_seqs, LARGEST_GRAPH), tokens,
        limits.max_model_len + SPARE, decoder.dtype, decoder.device,
    )  # fmt: skip
