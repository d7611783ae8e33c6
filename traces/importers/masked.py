"""Token sequences with a mask of what was generated: prompt, response and turns of each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from traces.errors import InputError
from traces.importers.whole import drop_partial

ASSUMED_TURNS = "what tools wrote between turns is left out of the response, and the waits for it are unknown (0 s)"


Numbers = Sequence[float] | npt.NDArray[Any]


@dataclass
class Sequences:
    """Rollouts gathered one by one as columns of a trace: ids of prompt and response, and turns where there are several."""

    prompt_token_ids: list[npt.NDArray[np.int64]] = field(default_factory=list)
    token_ids: list[npt.NDArray[np.int64]] = field(default_factory=list)
    logprobs: list[npt.NDArray[np.float32] | None] = field(default_factory=list)
    turns: list[list[dict[str, Any]] | None] = field(default_factory=list)

    def add(self, ids: Numbers, generated: Numbers, logprobs: Numbers | None, place: str) -> None:
        """One rollout: all of its tokens, which of them it generated, and their log-probabilities, each as long."""
        tokens, mask = np.asarray(ids), np.asarray(generated) != 0
        if tokens.size and tokens.dtype.kind not in "iu":
            raise InputError(f"{place}: has token ids that are no whole numbers: dump again")
        tokens = tokens.astype(np.int64)
        first = int(np.argmax(mask)) if mask.any() else len(tokens)
        edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
        spans = edges[1::2] - edges[::2]
        self.prompt_token_ids.append(tokens[:first])
        self.token_ids.append(tokens[mask])
        self.logprobs.append(None if logprobs is None else np.asarray(logprobs, np.float32)[mask])
        several = len(spans) > 1
        self.turns.append([{"generated_tokens": int(n), "wait_s": 0.0} for n in spans] if several else None)

    def columns(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The columns, and what is assumed in them. Log-probabilities that some rollouts lack are left out."""
        columns: dict[str, Any] = {
            name: list(getattr(self, name)) for name in ("prompt_token_ids", "token_ids", "logprobs", "turns")
        }
        lost = drop_partial(columns, "logprobs")
        if any(self.turns):
            return columns, (ASSUMED_TURNS, *lost)
        del columns["turns"]
        return columns, lost
