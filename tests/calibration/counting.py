"""A clock that only torch moves: every operation takes seconds by what it reads, writes and multiplies, and nothing else does.

With it the whole harness is deterministic: what a profile then gets wrong is its own fault, not the machine's.
"""

from types import TracebackType
from typing import Any, Self

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PER_CALL_S, PER_BYTE_S, PER_FLOP_S, READING_S = 2e-6, 1e-10, 2e-11, 1e-8
VIEWS = {
    "view", "select", "slice", "unsqueeze", "squeeze", "transpose", "t", "expand", "permute", "alias", "split", "as_strided",
    "detach", "split_with_sizes", "_unsafe_view", "unbind",
}  # fmt: skip
PRODUCTS = ("mm", "addmm", "bmm", "linear")


class CountingClock(TorchDispatchMode):
    """While entered, `time.perf_counter` says how long the operations run so far would have taken."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now_s, self._patch = 0.0, patch

    def __enter__(self) -> Self:
        self._patch.setattr("time.perf_counter", self._read)
        for name, once in (("LEAST", 1), ("AIM_S", 0.0), ("LEAST_SAMPLE_S", 0.0)):
            self._patch.setattr(f"calibration.kernels.timing.{name}", once)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._patch.undo()

    def _read(self) -> float:
        self.now_s += READING_S
        return self.now_s

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        touched = [*args, *(out if isinstance(out, tuple) else (out,))]
        if name == "index_put_":  # what is not written of a cache is not touched
            touched = [args[2]]
        elif name == "index":
            touched = [out]
        elif name in VIEWS:
            touched = []
        self.now_s += PER_CALL_S + PER_BYTE_S * sum(one.nbytes for one in touched if isinstance(one, Tensor))
        if name in PRODUCTS:
            inputs = [one for one in args if isinstance(one, Tensor) and one.dim() >= 2]
            self.now_s += PER_FLOP_S * 2 * out.numel() * inputs[0].shape[-1]
        elif "attention" in name:
            self.now_s += PER_FLOP_S * 4 * args[0].numel() * args[1].shape[-2]
        return out
