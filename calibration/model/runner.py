"""Runs batches through a decoder as an engine does: to the device, forward, sample, verify, back to the host."""

from __future__ import annotations

import bisect
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calibration.model.batch import Batch
from calibration.model.decoder import DecodeKernel, Decoder, Inputs
from calibration.model.layers import accepted, sample

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

FIELDS = 5
"""What a step sends to the device of each token: its id, position and KV slot, the draft after it, its sequence's first row."""


class PlannedKernel(DecodeKernel, Protocol):
    """A decode kernel that is told of the batch before its launches."""

    def plan(self, query_starts: Int32, context_tokens: Int32, slots: Int32) -> object:
        """Prepare for sequences of a batch: int32[n + 1], KV tokens with the new ones int32[n], int32[n]."""


class Runner:
    """A decoder with what a step needs around it; `run` returns when the host has the step's tokens.

    kernel: attention of sequences that decode, instead of one call per sequence. capture_sizes: numbers of tokens for which
    a CUDA graph of steps that only decode is captured when it is first needed; a batch runs in the next larger one.
    """

    def __init__(
        self, decoder: Decoder, kernel: PlannedKernel | None = None, capture_sizes: tuple[int, ...] = (), seed: int = 0
    ) -> None:
        self.decoder, self.device, self.kernel = decoder, decoder.device, kernel
        assert not capture_sizes or (kernel is not None and self.device.type == "cuda"), "graphs need a planned kernel"
        self.capture_sizes = tuple(sorted(capture_sizes))
        # captured graphs advance the default generator
        self.draw = None if self.device.type == "cuda" else torch.Generator(self.device).manual_seed(seed)
        largest = self.capture_sizes[-1] if self.capture_sizes else 0
        self._sent = torch.zeros(FIELDS * largest, dtype=torch.int64, device=self.device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    @torch.inference_mode()
    def run(self, batch: Batch) -> Int64:
        """Tokens sampled at the batch's rows, and whether the drafts after them hold: int64[2, sampled]."""
        size = self._graph_size(batch)
        if size is not None:
            return self._replay(batch, size)
        inputs = self.inputs(batch)
        tokens = sample(self.decoder.logits(inputs), self.draw)
        return torch.stack([tokens, self.verify(inputs, tokens)]).cpu().numpy()

    def inputs(self, batch: Batch) -> Inputs:
        """The batch on the device, the kernel planned for it."""
        n, split = batch.decoding, int(batch.query_starts[batch.decoding])
        contexts = batch.context_tokens + batch.widths
        kernel = self.kernel if n else None
        if kernel is not None:
            kernel.plan(batch.query_starts[: n + 1], contexts[:n], batch.slots[:n])
        starts, ends, slots = batch.query_starts[:-1].tolist(), batch.query_starts[1:].tolist(), batch.slots.tolist()
        spans = list(zip(starts, ends, contexts.tolist(), strict=True))
        prefill = [(start - split, end - split, context) for start, end, context in spans[n:]]
        sampled = torch.from_numpy(batch.sampled).to(self.device, non_blocking=True)
        sent = self.pack(batch, batch.tokens.size).to(self.device, non_blocking=True)
        tokens, positions, cells, following, first = sent.view(FIELDS, -1)
        return Inputs(
            tokens, positions, cells, following, first, sampled, split, spans[:n], slots[:n], prefill, slots[n:], kernel
        )

    def verify(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        """Whether the draft after each sampled token holds; the first of them are those of sequences that decode."""
        split = inputs.decode_tokens
        held = torch.zeros_like(tokens)
        held[:split] = accepted(tokens[:split], inputs.following[:split], inputs.first[:split])
        return held

    @torch.inference_mode()
    def capture_all(self) -> None:
        """Capture every graph now, the largest first, so that all share its memory; nothing where there are none."""
        for size in reversed(self.capture_sizes):
            if size not in self._graphs:
                self._graphs[size] = self._capture(size)

    def pack(self, batch: Batch, size: int) -> Tensor:
        """What is sent of the batch's tokens, int64[FIELDS * size] on the host; padding goes to the padding slot."""
        packed = torch.zeros(FIELDS * size, dtype=torch.int64, pin_memory=self.device.type == "cuda")
        rows, total = packed.numpy().reshape(FIELDS, size), batch.tokens.size
        ends = batch.query_starts[1:]
        rows[0, :total] = batch.tokens
        rows[1, :total] = batch.positions
        rows[2, total:] = self.decoder.cache.padding_slot
        rows[2, :total] = np.repeat(batch.slots, batch.widths)
        rows[3, : total - 1] = batch.tokens[1:]
        rows[3, ends - 1] = -1
        rows[3, total:] = -1
        rows[4, :total] = np.repeat(batch.query_starts[:-1], batch.widths)
        rows[4, total:] = np.arange(total, size)
        return packed

    def padded_inputs(self, sent: Tensor) -> Inputs:
        """What `pack` made, on the device, as a batch in which every token decodes; the kernel knows which sequence has which."""
        tokens, positions, cells, following, first = sent.view(FIELDS, -1)
        size = tokens.shape[0]
        rows = torch.arange(size, device=self.device)
        return Inputs(tokens, positions, cells, following, first, rows, size, [], [], [], [], self.kernel)

    def _graph_size(self, batch: Batch) -> int | None:
        """Tokens of the graph that the batch runs in; None where it runs without."""
        total = batch.tokens.size
        if batch.decoding < batch.slots.size or not self.capture_sizes or total > self.capture_sizes[-1]:
            return None
        return self.capture_sizes[bisect.bisect_left(self.capture_sizes, total)]

    def _replay(self, batch: Batch, size: int) -> Int64:
        assert self.kernel is not None
        if size not in self._graphs:
            self._graphs[size] = self._capture(size)
        self.kernel.plan(batch.query_starts, batch.context_tokens + batch.widths, batch.slots)
        self._sent[: FIELDS * size].copy_(self.pack(batch, size), non_blocking=True)
        graph, out = self._graphs[size]
        graph.replay()
        return out.cpu().numpy()[:, : batch.tokens.size]

    def _capture(self, size: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Capture the whole step on `size` tokens; meanwhile they are one sequence of one token, and padding."""
        assert self.kernel is not None
        one = np.ones(1, np.int32)
        self.kernel.plan(np.array([0, 1], np.int32), one, one * np.int32(self.decoder.cache.padding_slot))
        self._sent.zero_()
        inputs = self.padded_inputs(self._sent[: FIELDS * size])

        def step() -> Tensor:
            drawn = sample(self.decoder.logits(inputs), None)
            return torch.stack([drawn, self.verify(inputs, drawn)])

        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values()))[0].pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool):
            out = step()
        return graph, out
