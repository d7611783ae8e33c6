"""Random numbers that belong to a rollout and a position, whoever asks for them and in whatever order."""

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled, entry
from traces.trace import Trace

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

GAMMA = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31, S11, HALF, ONE = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11), 0.5, np.uint64(1)
UNIT = 2.0**-53


@compiled
def uniform(key: np.uint64, counter: int) -> float:
    """Return draw number `counter` (0, 1, ...) of the stream `key`, in (0, 1): splitmix64, started at the key.

    Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014, with the constants of its
    published C version. Any draw is computed from key and counter alone, so no draw depends on another.
    """
    z = np.uint64(key) + GAMMA * (np.uint64(counter) + ONE)
    z = (z ^ (z >> S30)) * FIRST
    z = (z ^ (z >> S27)) * SECOND
    z ^= z >> S31
    return (np.float64(z >> S11) + HALF) * UNIT


@entry
def firsts(keys: UInt64, out: Float64) -> None:
    """Write draw 0 of every stream."""
    for i in range(keys.size):
        out[i] = uniform(keys[i], 0)


@entry
def fill(keys: UInt64, offsets: Int64, out: Float64) -> None:
    """Write draw p of stream i to out[offsets[i] + p]."""
    for i in range(keys.size):
        for p in range(offsets[i], offsets[i + 1]):
            out[p] = uniform(keys[i], p - offsets[i])


def rollout_keys(trace: Trace, rows: Int64, seed: int, stream: str) -> UInt64:
    """Return a stream's key for each of the rollouts in `rows`, uint64[n].

    The key hashes (stream, seed, prompt_id, step, sample): which rollout it is, not where it stands in the trace.
    """
    keys = prompt_keys(trace.prompt_ids, trace.prompt[rows], seed, stream)
    for part in (trace.step[rows], trace.sample[rows]):
        keys = parted(keys, part)
    return keys


def prompt_keys(prompt_ids: list[str], prompts: npt.NDArray[Any], seed: int, stream: str) -> UInt64:
    """Return a stream's key for each of `prompts`, which index prompt_ids: a hash of (stream, seed, prompt_id); uint64[n]."""
    names = np.zeros(len(prompt_ids), np.uint64)
    for number in np.unique(prompts).tolist():
        text = f"{stream}\0{seed}\0{prompt_ids[number]}".encode()
        names[number] = int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
    keys: UInt64 = names[prompts]
    return keys


def parted(keys: UInt64, part: npt.NDArray[Any]) -> UInt64:
    """Return the keys of parts, numbered from 0, of what these keys are about; uint64[n]."""
    return _mixed(keys + GAMMA * (part.astype(np.uint64) + ONE))


def levels(keys: UInt64) -> Float64:
    """Return one draw for each key, float64[n] in (0, 1)."""
    out = np.empty(keys.size)
    firsts(keys, out)
    return out


def position_draws(keys: UInt64, offsets: Int64) -> Float64:
    """Return a draw in (0, 1) for each position of each rollout, float64[offsets[-1]]."""
    out = np.empty(int(offsets[-1]))
    fill(keys, offsets, out)
    return out


def _mixed(z: UInt64) -> UInt64:
    """Scramble 64 bits one to one (the finaliser of splitmix64)."""
    z = (z ^ (z >> S30)) * FIRST
    z = (z ^ (z >> S27)) * SECOND
    return z ^ (z >> S31)
