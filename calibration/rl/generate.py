"""Sample responses of a whole batch token by token; sequences that are done leave it, so that the long tail gets cheap."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calibration.rl.policy import Cache, Shape, Weights, empty_cache, next_logits
from calibration.rl.vocabulary import END_ID
from calibration.rl.workers import each

BLOCK = 32  # positions after which finished sequences leave and the cache grows


@dataclass(frozen=True)
class Response:
    """What was sampled after a prompt: int32[n] token ids and float32[n] log-probabilities (nats), one for each."""

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]

    @property
    def finish_reason(self) -> str:
        """`stop` where it ends by itself, `length` where it was cut."""
        return "stop" if self.token_ids[-1] == END_ID else "length"


def generate(
    weights: Weights,
    shape: Shape,
    prompts: list[list[int]],
    uniforms: npt.NDArray[np.float32],
    threads: int = 1,
    device: str = "cpu",
) -> list[Response]:
    """A response to each prompt, sampled at temperature 1, at most uniforms.shape[1] tokens long.

    `uniforms` float32[prompts, most], in [0, 1), decide the tokens: token i of a response inverts the cumulative
    distribution at its i-th number. Every thread has a batch of its own.
    """
    parts = [range(i, len(prompts), threads) for i in range(min(threads, len(prompts)))]

    def part_of(rows: range) -> list[Response]:
        with torch.inference_mode():
            return _generate_batch(weights, shape, [prompts[i] for i in rows], uniforms[rows], device)

    found = each(part_of, parts, threads)
    return [found[i % len(parts)][i // len(parts)] for i in range(len(prompts))]


def _generate_batch(
    weights: Weights, shape: Shape, prompts: list[list[int]], uniforms: npt.NDArray[np.float32], device: str
) -> list[Response]:
    """Responses of one batch: all sequences are at the same position, prompts being fed token by token as well.

    So no position of the cache is padding, whatever the lengths of prompts.
    """
    count, most = uniforms.shape
    prompt_tokens = np.array([len(prompt) for prompt in prompts])
    length = int(prompt_tokens.max()) + most
    ids = np.zeros((count, length), np.int64)
    logprobs = np.zeros((count, length), np.float32)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    end = prompt_tokens + most  # where each sequence ends; brought forward when it stops
    live = np.arange(count)
    cache = empty_cache(shape, count, 0, device)
    for at in range(length - 1):
        if at % BLOCK == 0:
            keep = end[live] > at + 1
            live = live[keep]
            cache = _moved(cache, torch.from_numpy(np.flatnonzero(keep)), at + BLOCK)
            if not len(live):
                break
        token = torch.from_numpy(ids[live, at]).to(device)
        found = next_logits(weights, shape, token, cache).log_softmax(-1)
        position = np.clip(at + 1 - prompt_tokens[live], 0, most - 1)
        chosen = _invert(found, torch.from_numpy(uniforms[live, position]).to(device))
        told = found.gather(1, chosen[:, None])[:, 0]
        responds = (at + 1 >= prompt_tokens[live]) & (at + 1 < end[live])
        rows = live[responds]
        ids[rows, at + 1] = chosen.cpu().numpy()[responds]
        logprobs[rows, at + 1] = told.cpu().numpy()[responds]
        end[rows[ids[rows, at + 1] == END_ID]] = at + 2
    spans = [slice(start, stop) for start, stop in zip(prompt_tokens, end, strict=True)]
    return [Response(ids[row, span].astype(np.int32), logprobs[row, span]) for row, span in enumerate(spans)]


def _moved(cache: Cache, rows: Tensor, room: int) -> Cache:
    """The cache of these rows alone, with room for so many positions."""
    old = cache.entries
    shape = (*old.shape[:2], len(rows), old.shape[3], room, old.shape[5])
    entries = torch.zeros(shape, device=old.device)
    entries[:, :, :, :, : cache.used] = old[:, :, rows.to(old.device), :, : cache.used]
    return Cache(entries, cache.used)


def _invert(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """The first token at which the cumulative distribution exceeds the number, int64[batch]."""
    cumulative = logprobs.exp().cumsum(-1)
    # The sum falls short of 1 by rounding; scaling by it keeps a number close to 1 from finding no token.
    chosen = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(-1)
    return chosen.clamp(max=logprobs.shape[1] - 1)
