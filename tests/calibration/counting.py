"""A clock that only torch moves: every operation takes seconds by what it reads, writes and multiplies, and nothing else does.

With it the whole harness is deterministic: what a profile then gets wrong is its own fault, not the machine's.
"""

from types import TracebackType
from typing import Any, Self

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PER_CALL_S, PER_BYTE_S, PER_FLOP_S = 2e-6, 1e-10, 2e-11
PRODUCTS = ("mm", "addmm", "bmm", "linear")


class CountingClock(TorchDispatchMode):
    """While entered, `time.perf_counter` says how long the operations run so far would have taken."""

    def __init__(self, patch: pytest.MonkeyPatch, per_step_s: float = 0.0) -> None:
        super().__init__()
        self.now_s, self._patch = 0.0, patch
        self.per_step_s = per_step_s

    def __enter__(self) -> Self:
        self._patch.setattr("time.perf_counter", lambda: self.now_s)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._patch.undo()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        tensors = [one for one in [*args, *(out if isinstance(out, tuple) else (out,))] if isinstance(one, Tensor)]
        self.now_s += PER_CALL_S + PER_BYTE_S * sum(one.numel() * one.element_size() for one in tensors)
        if name in PRODUCTS:
            inputs = [one for one in args if isinstance(one, Tensor) and one.dim() >= 2]
            self.now_s += PER_FLOP_S * 2 * out.numel() * inputs[0].shape[-1]
        elif "attention" in name:
            query, keys = args[0], args[1]
            self.now_s += PER_FLOP_S * 4 * query.numel() * keys.shape[-2]
        if name == "_to_copy" or name == "stack":
            self.now_s += self.per_step_s
        return out
