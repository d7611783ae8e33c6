"""Random rollouts that repeat themselves, as traces and as lists, for holding the compiled drafters to the reference."""

import random
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.drafting.suffix import Suffix
from tests.reference.suffix import Counts
from traces.io import from_table
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]

NAMES = (7, 0, 2**31 - 1, 151_643)
"""Token ids that an alphabet of up to four letters is spelt in, the extremes of int32 among them."""


def sequence(rng: random.Random, length: int, alphabet: int) -> list[int]:
    """Noise, a loop of period 1 to 3, or pieces copied from earlier on, with a slip now and then."""
    kind = rng.choice(("noise", "loop", "copies"))
    if kind == "loop":
        period = [rng.randrange(alphabet) for _ in range(rng.randint(1, 3))]
        letters = (period * length)[:length]
    else:
        letters = [rng.randrange(alphabet) for _ in range(length)]
        while kind == "copies" and rng.random() < 0.8:
            size = rng.randint(1, length)
            source, target = rng.randint(0, length - size), rng.randint(0, length - size)
            letters[target : target + size] = letters[source : source + size]
    for _ in range(rng.choice((0, 0, 1, 3))):
        letters[rng.randrange(length)] = rng.randrange(alphabet)
    return [NAMES[letter] for letter in letters]


@dataclass(frozen=True)
class Case:
    """Rollouts of two RL steps: step 0 is the history, step 1 is replayed."""

    prompts: list[list[int]]  # by prompt
    past: list[list[list[int]]]  # by prompt, then sample
    now: list[list[list[int]]]

    def trace(self) -> Trace:
        """The same as a trace, step 0 first."""
        rows = [
            (step, f"p{prompt}", sample, self.prompts[prompt], tokens)
            for step, groups in enumerate((self.past, self.now))
            for prompt, group in enumerate(groups)
            for sample, tokens in enumerate(group)
        ]
        steps, names, samples, prompts, tokens = (list(column) for column in zip(*rows, strict=True))
        columns = {
            "step": pa.array(steps, pa.int32()),
            "prompt_id": pa.array(names),
            "sample": pa.array(samples, pa.int32()),
            "prompt_tokens": pa.array([len(p) for p in prompts], pa.int32()),
            "output_tokens": pa.array([len(t) for t in tokens], pa.int32()),
            "prompt_token_ids": pa.array(prompts, pa.list_(pa.int32())),
            "token_ids": pa.array(tokens, pa.list_(pa.int32())),
        }
        return from_table(pa.table(columns))

    def histories(self, scope: str, depth: int) -> list[Counts | None]:
        """The reference's table of past responses for each prompt."""
        if scope == "request":
            return [None] * len(self.past)
        if scope == "global":
            return [counted(list(chain.from_iterable(self.past)), depth)] * len(self.past)
        return [counted(group, depth) for group in self.past]

    def replayed(self, scope: str, depth: int, prompt: bool) -> list[tuple[Counts | None, list[int], list[int]]]:
        """(history, prompt, output) of each rollout of step 1, in the order of the trace."""
        histories = self.histories(scope, depth)
        return [
            (histories[number], self.prompts[number] if prompt else [], tokens)
            for number, group in enumerate(self.now)
            for tokens in group
        ]


def random_case(rng: random.Random, prompts: int, samples: int, longest: int) -> Case:
    """Groups of up to `samples` rollouts of up to `longest` tokens; some prompts are empty, some have no past."""
    alphabet = rng.randint(1, 4)

    def tokens(least: int, most: int) -> list[int]:
        length = rng.randint(least, most)
        return sequence(rng, length, alphabet) if length else []

    def group(least: int) -> list[list[int]]:
        return [tokens(1, longest) for _ in range(rng.randint(least, samples))]

    past = [group(0) for _ in range(prompts)]
    past[0] = past[0] or [tokens(1, longest)]
    return Case([tokens(0, 12) for _ in range(prompts)], past, [group(1) for _ in range(prompts)])


def counted(sequences: list[list[int]], depth: int, weights: list[int] | None = None) -> Counts:
    """The reference's table of these sequences."""
    table = Counts(depth)
    for tokens, weight in zip(sequences, weights or [1] * len(sequences), strict=True):
        table.insert(tokens, weight)
    return table


def replay_rows(trace: Trace) -> Int64:
    """Rows of step 1."""
    return np.flatnonzero(trace.step == 1)


def random_drafter(rng: random.Random, scope: str, own: bool, prompt: bool, match: str) -> Suffix:
    """A drafter of the given kind, its numbers drawn from those that make edges frequent."""
    return Suffix(
        scope=scope,  # type: ignore[arg-type]
        own=own,
        match=match,  # type: ignore[arg-type]
        depth=rng.randint(2, 10),
        factor=rng.choice((0.4, 1.0, 1.0, 1.5, 2.0, 4.0)),
        min_prob=rng.choice((0.0, 0.1, 0.1, 0.25, 1 / 3, 0.5, 1.0)),
        prompt=prompt,
    )
