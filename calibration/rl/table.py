"""The rollouts of RL steps as a trace."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from calibration.rl.countdown import Problem
from calibration.rl.generate import Response
from calibration.rl.vocabulary import encode, prompt_of
from traces.schema import SCHEMA

LOGPROBS = ("logprobs", "next_logprobs")
MANTISSA_BITS = 10  # of the 23 of a float32; log-probabilities are written to a relative precision of 1 in 2048
ROUNDING = f"log-probabilities rounded to {MANTISSA_BITS} bits of mantissa"


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt in one RL step, with their rewards and log-probabilities under the next policy."""

    problem: Problem
    responses: list[Response]
    rewards: npt.NDArray[np.float32]
    next_logprobs: list[npt.NDArray[np.float32]]


def name_of(problem: Problem) -> str:
    """The prompt_id: `24 13 7 to 30`."""
    return f"{' '.join(map(str, problem.numbers))} to {problem.target}"


def table_of(step: int, policy: str, groups: list[Group]) -> pa.Table:
    """The trace of one RL step; every step is an epoch, as it has every prompt."""
    rows = [
        {
            "step": step,
            "prompt_id": name_of(group.problem),
            "sample": sample,
            "prompt_tokens": len(prompt_of(group.problem)),
            "output_tokens": len(response.token_ids),
            "policy": policy,
            "epoch": step,
            "finish_reason": response.finish_reason,
            "reward": group.rewards[sample],
            "prompt_token_ids": encode(prompt_of(group.problem)),
            "token_ids": response.token_ids,
            "logprobs": rounded(response.logprobs),
            "next_logprobs": rounded(group.next_logprobs[sample]),
        }
        for group in groups
        for sample, response in enumerate(group.responses)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([field for field in SCHEMA if field.name in rows[0]]))


def rounded(values: npt.NDArray[np.float32], bits: int = MANTISSA_BITS) -> npt.NDArray[np.float32]:
    """The nearest values whose mantissas have so many bits, which compress; -0.0 becomes 0.0."""
    dropped = 23 - bits
    words = values.view(np.uint32) + np.uint32(1 << (dropped - 1))
    return (words & ~np.uint32((1 << dropped) - 1)).view(np.float32) + np.float32(0)
