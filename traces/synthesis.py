"""Made-up traces: heavy-tailed lengths that hang together within a prompt, and token ids that repeat by measure."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from traces.errors import InputError
from traces.io import with_provenance

LENGTHS, PROMPTS, TOKENS = range(3)  # what a random stream is about: changing one setting leaves the other draws alone
NOTHING = -1  # source of a span that is new
MOST_ROLLOUTS = 10**8
MOST_TOKENS = 2**31 - 1  # Arrow's list offsets are int32
RANGES: dict[str, tuple[float, float]] = {
    "prompts": (1, 10**7),
    "samples": (1, 10**5),
    "steps": (1, 10**5),
    "seed": (0, 2**63 - 1),
    "median_tokens": (1, 10**7),
    "max_tokens": (1, 10**8),
    "log_sigma": (0, 4),
    "prompt_share": (0, 1),
    "drift": (-5, 5),
    "prompt_tokens": (0, 10**7),
    "vocabulary": (1, 10**7),
    "zipf": (0, 5),
    "sibling_reuse": (0, 1),
    "history_reuse": (0, 1),
    "span_tokens": (1, 10**6),
}

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def synth(
    *,
    prompts: int = 64,
    samples: int = 8,
    steps: int = 4,
    seed: int = 0,
    median_tokens: float = 1000.0,
    max_tokens: int = 16_000,
    log_sigma: float = 0.85,
    prompt_share: float = 0.5,
    drift: float = 0.0,
    prompt_tokens: int = 128,
    vocabulary: int = 32_000,
    zipf: float = 1.1,
    sibling_reuse: float = 0.3,
    history_reuse: float = 0.4,
    span_tokens: float = 24.0,
) -> pa.Table:
    """A trace table of prompts x samples x steps rollouts: every step runs every prompt; rows by step, prompt, sample.

    Lengths in tokens are lognormal: the median is `median_tokens` in step 0 and grows by exp(`drift`) each step;
    `log_sigma` is the standard deviation of their logarithm (0.85: about one in 2,000 reaches 16 medians), of whose
    variance `prompt_share` belongs to the prompt, the same in every step. At `max_tokens` a rollout is cut
    (finish_reason length).

    Token ids come in spans of geometric length, mean `span_tokens`. A span is copied, with probability `sibling_reuse`,
    from a lower sample of the group; with probability `history_reuse`, from a rollout of the prompt in an earlier step;
    else it is new: independent ids, Zipf with exponent `zipf` over `vocabulary` ids. Where there is nothing to copy
    (sample 0, step 0, the end of the source), the ids are new. Prompts are half to one and a half times
    `prompt_tokens` long, all new.

    The same arguments give the same table. Raises InputError for an argument outside RANGES.
    """
    settings: dict[str, Any] = dict(locals())
    _check(settings)
    step, prompt, sample = np.indices((steps, prompts, samples)).reshape(3, -1)
    rng = np.random.default_rng([seed, LENGTHS])
    of_prompt = np.sqrt(prompt_share) * rng.standard_normal(prompts)
    of_rollout = np.sqrt(1 - prompt_share) * rng.standard_normal(len(step))
    with np.errstate(over="ignore"):  # a length too large for a float is cut at max_tokens like any other
        wanted = median_tokens * np.exp(drift * step + log_sigma * (of_prompt[prompt] + of_rollout))
    offsets = _offsets(np.clip(np.rint(wanted), 1, max_tokens).astype(np.int64))

    zipf_law = np.cumsum(np.arange(1, vocabulary + 1, dtype=np.float64) ** -zipf)
    zipf_law /= zipf_law[-1]
    reuse = (sibling_reuse, history_reuse)
    tokens = _tokens(offsets, (steps, prompts, samples), seed, reuse, span_tokens, zipf_law)
    prompt_texts = _prompts(prompts, prompt_tokens, seed, zipf_law)
    numbers = np.stack([step, prompt, sample])
    return with_provenance(_table(numbers, prompt_texts, tokens, offsets, wanted > max_tokens), {"synthetic": settings})


def _table(
    numbers: Ints, prompt_texts: list[npt.NDArray[np.int32]], tokens: npt.NDArray[np.int32], offsets: Ints, cut: Bools
) -> pa.Table:
    """The trace of rollouts; numbers: int64[3, n], step, prompt and sample of each."""
    step, prompt, sample = numbers
    prompt_lengths = np.array([text.size for text in prompt_texts])[prompt]
    prompt_ids = np.concatenate([prompt_texts[index] for index in prompt])
    return pa.table(
        {
            "step": pa.array(step, pa.int32()),
            "prompt_id": pa.array([f"prompt-{index}" for index in prompt.tolist()]),
            "sample": pa.array(sample, pa.int32()),
            "prompt_tokens": pa.array(prompt_lengths, pa.int32()),
            "output_tokens": pa.array(np.diff(offsets), pa.int32()),
            "policy": pa.array([f"synthetic/step_{index}" for index in step.tolist()]),
            "epoch": pa.array(step, pa.int32()),
            "finish_reason": pa.array(np.where(cut, "length", "stop").tolist()),
            "prompt_token_ids": _lists(prompt_ids, _offsets(prompt_lengths)),
            "token_ids": _lists(tokens, offsets),
        }
    )


def _tokens(
    offsets: Ints,
    shape: tuple[int, int, int],
    seed: int,
    reuse: tuple[float, float],
    span_tokens: float,
    zipf_law: npt.NDArray[np.float64],
) -> npt.NDArray[np.int32]:
    """Ids of all rollouts, a wave after the other: one rollout of every prompt, copying from earlier waves."""
    steps, prompts, samples = shape
    of_siblings, of_history = reuse
    tokens = np.empty(offsets[-1], dtype=np.int32)
    for at_step, at_sample in np.ndindex(steps, samples):
        rng = np.random.default_rng([seed, TOKENS, at_step, at_sample])
        rows = (at_step * prompts + np.arange(prompts)) * samples + at_sample
        starts, owner = _spans(rng, np.diff(offsets)[rows], span_tokens)
        kind = rng.random(len(starts))
        sibling = rows[owner] - at_sample + rng.integers(0, max(1, at_sample), len(starts))
        before = rng.integers(0, max(1, at_step), len(starts))
        history = (before * prompts + owner) * samples + rng.integers(0, samples, len(starts))
        is_sibling = (kind < of_siblings) & (at_sample > 0)
        is_history = (kind >= of_siblings) & (kind < of_siblings + of_history) & (at_step > 0)
        source = np.where(is_sibling, sibling, np.where(is_history, history, NOTHING))
        _fill(rng, tokens, offsets, rows, starts, source, zipf_law)
    return tokens


def _prompts(
    prompts: int, prompt_tokens: int, seed: int, zipf_law: npt.NDArray[np.float64]
) -> list[npt.NDArray[np.int32]]:
    rng = np.random.default_rng([seed, PROMPTS])
    offsets = _offsets(rng.integers(prompt_tokens - prompt_tokens // 2, prompt_tokens * 3 // 2 + 1, prompts))
    return np.split(_novel(rng, int(offsets[-1]), zipf_law), offsets[1:-1])


def _check(settings: dict[str, Any]) -> None:
    for name, (least, most) in RANGES.items():
        if not least <= settings[name] <= most:  # also refuses NaN
            raise InputError(f"synthesis: {name} is {settings[name]}: choose {least} to {most}")
    rollouts = settings["prompts"] * settings["samples"] * settings["steps"]
    if rollouts > MOST_ROLLOUTS:
        raise InputError(f"synthesis: {rollouts} rollouts, at most {MOST_ROLLOUTS}: lower prompts, samples or steps")
    if settings["sibling_reuse"] + settings["history_reuse"] > 1:
        raise InputError(
            f"synthesis: sibling_reuse {settings['sibling_reuse']} and history_reuse {settings['history_reuse']} "
            f"sum to more than 1: lower one of them"
        )


def _offsets(lengths: Ints) -> Ints:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > MOST_TOKENS:
        raise InputError(f"synthesis: {offsets[-1]} tokens, at most {MOST_TOKENS}: ask for fewer or shorter rollouts")
    return offsets


def _spans(rng: np.random.Generator, lengths: Ints, mean: float) -> tuple[Ints, Ints]:
    """Where spans start in the rollouts laid end to end, and which rollout each belongs to.

    A token starts a span with probability 1/mean, so lengths are geometric; so does the first token of a rollout.
    """
    ends = np.cumsum(lengths)
    is_start = rng.random(ends[-1]) < 1 / mean
    is_start[ends - lengths] = True
    starts = np.flatnonzero(is_start)
    return starts, np.searchsorted(ends, starts, side="right")


def _fill(
    rng: np.random.Generator,
    tokens: npt.NDArray[np.int32],
    offsets: Ints,
    rows: Ints,
    starts: Ints,
    source: Ints,
    zipf_law: npt.NDArray[np.float64],
) -> None:
    """Write the token ids of `rows`: spans from a uniform place of their source rollout, new ids elsewhere."""
    lengths = np.diff(offsets)[rows]
    total = int(lengths.sum())
    span_lengths = np.diff(starts, append=total)
    room = np.maximum(0, np.diff(offsets)[source] - span_lengths)
    begin = offsets[source] + np.floor(rng.random(len(starts)) * (room + 1)).astype(np.int64)
    place = np.arange(total)
    read_at = place + np.repeat(begin - starts, span_lengths)
    is_copy = np.repeat(source != NOTHING, span_lengths) & (read_at < np.repeat(offsets[source + 1], span_lengths))
    ids = np.empty(total, dtype=np.int32)
    ids[is_copy] = tokens[read_at[is_copy]]
    ids[~is_copy] = _novel(rng, int(total - is_copy.sum()), zipf_law)
    tokens[place + np.repeat(offsets[rows] - (np.cumsum(lengths) - lengths), lengths)] = ids


def _novel(rng: np.random.Generator, count: int, zipf_law: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Independent token ids: id 0 is the most frequent."""
    return np.searchsorted(zipf_law, rng.random(count), side="right").astype(np.int32)


def _lists(values: npt.NDArray[np.int32], offsets: Ints) -> "pa.ListArray[Any]":
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))
