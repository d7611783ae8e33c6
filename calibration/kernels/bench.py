"""Runs one operator of a decoder at one point: all layers after each other, so that weights and KV come from memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.kernels.grid import Point, room_of
from calibration.kernels.timing import Timed, timed
from calibration.model.attention import attend_decode, attend_prefill
from calibration.model.batch import batch_of
from calibration.model.decoder import Decoder, Inputs
from calibration.model.layers import experts, rms_norm, sample
from calibration.model.runner import PlannedKernel, Runner
from calibration.model.weights import Experts, FeedForward

Call = Callable[[], object]

COPY_BYTES = {"cuda": 2**30, "cpu": 2**27}
MATMUL = {"cuda": 8192, "cpu": 1024}


class Bench:
    """Operators of a runner's decoder. drafter: a draft model that runs on a cache of its own, or None."""

    def __init__(self, runner: Runner, drafter: Runner | None) -> None:
        self.runner, self.decoder, self.drafter = runner, runner.decoder, drafter
        self.device, self.dtype = self.decoder.device, self.decoder.dtype
        self._joiner = _random(self.decoder.shape.hidden, 2 * self.decoder.shape.hidden, like=self.decoder)

    @torch.inference_mode()
    def measure(self, point: Point) -> dict[str, Any]:
        """Seconds of a point, all layers together."""
        operator, at = point
        call: Call = getattr(self, f"_{operator}")(*at)
        found: Timed = timed(call, self.device)
        extra = {"copy": {"bytes": COPY_BYTES[self.device.type]}, "matmul": {"size": MATMUL[self.device.type]},
                 "weight_load": {"bytes": self.decoder.weights.layers[0].qkv.nbytes}}.get(operator, {})  # fmt: skip
        return asdict(found) | extra

    def _hidden(self, rows: int) -> Tensor:
        return torch.randn(rows, self.decoder.shape.hidden, dtype=self.dtype, device=self.device)

    def _tokens(self, rows: int) -> Tensor:
        return torch.randint(self.decoder.shape.vocabulary, (rows,), device=self.device)

    def _each(self, weights: list[Tensor], rows: int) -> Call:
        x = _random(rows, weights[0].shape[1], like=self.decoder)
        return lambda: [F.linear(x, one) for one in weights]

    def _dense(self) -> list[FeedForward]:
        return [layer.mlp for layer in self.decoder.weights.layers if isinstance(layer.mlp, FeedForward)]

    def _embed(self, rows: int) -> Call:
        tokens, places = self._tokens(rows), torch.arange(rows, device=self.device) % self.decoder.turns.shape[0]
        return lambda: (self.decoder.embed(tokens), self.decoder.turns[places])

    def _qkv_proj(self, rows: int) -> Call:
        return self._each([layer.qkv for layer in self.decoder.weights.layers], rows)

    def _o_proj(self, rows: int) -> Call:
        return self._each([layer.o for layer in self.decoder.weights.layers], rows)

    def _gate_up_proj(self, rows: int) -> Call:
        return self._each([one.gate_up for one in self._dense()], rows)

    def _down_proj(self, rows: int) -> Call:
        return self._each([one.down for one in self._dense()], rows)

    def _silu_mul(self, rows: int) -> Call:
        both = _random(rows, 2 * self.decoder.shape.intermediate, like=self.decoder)
        return lambda: [self.decoder.kernels.gated(both) for _ in self._dense()]

    def _add_norm(self, rows: int) -> Call:
        x, total = self._hidden(rows), self._hidden(rows)
        norms = [norm for layer in self.decoder.weights.layers for norm in (layer.input_norm, layer.post_norm)]
        return lambda: [self.decoder.kernels.add_norm(x, total, norm) for norm in norms]

    def _rope_append(self, rows: int) -> Call:
        shape, room = self.decoder.shape, 256
        self.decoder.cache.view(-(-rows // room), room)
        at = torch.arange(rows, device=self.device)
        slots, positions, turns = at // room, at % room, self.decoder.turns[at % room]
        qkv = _random(rows, (shape.heads + 2 * shape.kv_heads) * shape.head_dim, like=self.decoder)
        return lambda: [self.decoder.turn_append(i, qkv, turns, slots, positions) for i in range(shape.layers)]

    def _experts(self, rows: int) -> Call:
        x, all_of = self._hidden(rows), [one.mlp for one in self.decoder.weights.layers if isinstance(one.mlp, Experts)]
        return lambda: [experts(x, one, self.decoder.kernels) for one in all_of]

    def _lm_head(self, rows: int) -> Call:
        x = self._hidden(rows)
        return lambda: self.decoder.project(x)

    def _sample(self, rows: int) -> Call:
        logits = _random(rows, self.decoder.shape.vocabulary, like=self.decoder)
        tokens, first = self._tokens(rows), torch.arange(rows, device=self.device)
        inputs = Inputs(tokens, first, first, tokens, first, first, rows, [], [], [], [])

        def call() -> Tensor:
            drawn = sample(logits, self.runner.draw)
            return torch.stack([drawn, self.runner.verify(inputs, drawn)])

        return call

    def _attention(self, batch: int, context: int, width: int) -> Call:
        return _decode_attention(self.decoder, self.runner.kernel, batch, context, width)

    def _prefill(self, chunk: int, before: int) -> Call:
        cache, shape = self.decoder.cache, self.decoder.shape
        cache.view(1, chunk + before)
        query = torch.randn(chunk, shape.heads, shape.head_dim, dtype=self.dtype, device=self.device)
        spans = [(0, chunk, chunk + before)]
        return lambda: [attend_prefill(query, k, v, [0], spans) for k, v in zip(cache.keys, cache.values, strict=True)]

    def _eagle_pass(self, x: Tensor) -> Tensor:
        """All of an EAGLE-like head but its attention: two states to one, a layer's products, the output layer."""
        decoder, layer = self.decoder, self.decoder.weights.layers[0]
        at = torch.arange(x.shape[0], device=self.device)
        total = F.linear(x, self._joiner)
        qkv = F.linear(rms_norm(total, layer.input_norm), layer.qkv, layer.qkv_bias)
        query = decoder.turn_append(0, qkv, decoder.turns[at], at, torch.zeros_like(at))
        x, total = decoder.kernels.add_norm(decoder.output(layer, query), total, layer.post_norm)
        return decoder.project(decoder.kernels.add_norm(decoder.mlp(layer, x), total, decoder.weights.norm)[0]).argmax(
            -1
        )

    def _eagle(self, batch: int, context: int) -> Call:
        attend = _decode_attention(self.decoder, self.runner.kernel, batch, context, 1, layers=1)
        x = _random(batch, 2 * self.decoder.shape.hidden, like=self.decoder)
        return lambda: (attend(), self._eagle_pass(x))

    def _draft_model(self, batch: int, context: int) -> Call:
        assert self.drafter is not None, "asked for only where there is one"
        decoder = self.drafter.decoder
        decoder.cache.view(batch, room_of(context, 1))
        tokens = np.zeros(batch, np.int64)
        inputs = self.drafter.inputs(
            batch_of(np.full(batch, context - 1), np.ones(batch, np.int64), np.arange(batch), tokens)
        )
        return lambda: decoder.logits(inputs).argmax(-1)

    def _logprob(self, rows: int) -> Call:
        self.decoder.cache.view(1, rows)
        at, tokens = torch.arange(rows, device=self.device), self._tokens(rows)
        zero = torch.zeros_like(at)
        inputs = Inputs(tokens, at, zero, tokens, zero, at, 0, [], [], [(0, rows, rows)], [0])
        return lambda: self.decoder.logits(inputs).float().log_softmax(-1).gather(1, tokens[:, None])

    def _copy(self) -> Call:
        source = torch.zeros(COPY_BYTES[self.device.type], dtype=torch.uint8, device=self.device)
        to = torch.empty_like(source)
        return lambda: to.copy_(source)

    def _weight_load(self) -> Call:
        there = torch.empty_like(self.decoder.weights.layers[0].qkv)
        here = torch.randn(there.shape, dtype=self.dtype, pin_memory=there.is_cuda)
        return lambda: there.copy_(here, non_blocking=True)

    def _matmul(self) -> Call:
        size = MATMUL[self.device.type]
        one, other = (_random(size, size, like=self.decoder) for _ in range(2))
        return lambda: torch.mm(one, other)


def _decode_attention(
    decoder: Decoder, kernel: PlannedKernel | None, batch: int, context: int, width: int, layers: int | None = None
) -> Call:
    """Every sequence of the batch verifies `width` tokens, the first of which sees `context` KV tokens."""
    shape, cache = decoder.shape, decoder.cache
    most = context + width - 1
    cache.view(batch, room_of(context, width))
    query = torch.randn(batch * width, shape.heads, shape.head_dim, dtype=decoder.dtype, device=decoder.device)
    caches = list(zip(cache.keys, cache.values, strict=True))[:layers]
    if kernel is not None:
        starts = np.arange(batch + 1, dtype=np.int32) * np.int32(width)
        kernel.plan(starts, np.full(batch, most, np.int32), np.arange(batch, dtype=np.int32))
        out = torch.empty_like(query)
        return lambda: [kernel.run(query, k, v, out) for k, v in caches]
    spans = [(i * width, (i + 1) * width, most) for i in range(batch)]
    slots = list(range(batch))
    return lambda: [attend_decode(query, k, v, slots, spans) for k, v in caches]


def _random(*size: int, like: Decoder) -> Tensor:
    return torch.randn(size, dtype=like.dtype, device=like.device)
