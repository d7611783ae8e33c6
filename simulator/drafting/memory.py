"""Loads and stores of int32 words at an address, for compiled code that walks pointer structures.

Numba counts references to every array that one compiled function hands to another: about four fifths of the time of an
automaton insert. A block of words passed as a plain address costs nothing to pass. The caller keeps the owning array alive.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WORD = ir.IntType(32)
WIDE = ir.IntType(64)


def address(words: npt.NDArray[np.int32]) -> int:
    """Return the address of a C-contiguous int32 array; valid while the array lives."""
    assert words.dtype == np.int32
    assert words.flags.c_contiguous
    return int(words.ctypes.data)


def _pointer(builder: Any, base: Any, index: Any) -> Any:
    return builder.gep(builder.inttoptr(base, WORD.as_pointer()), [index], source_etype=WORD)


if TYPE_CHECKING:

    def load(base: int, index: int) -> int:
        """Return the word at base + 4 * index, sign-extended to int64."""

    def store(base: int, index: int, value: int) -> None:
        """Write the low 32 bits of `value` at base + 4 * index."""

else:

    @intrinsic
    def load(typingctx: Any, base: Any, index: Any) -> Any:
        """Return the word at base + 4 * index, sign-extended to int64."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.sext(builder.load(_pointer(builder, args[0], args[1]), typ=WORD), WIDE)

        return types.int64(types.int64, types.int64), codegen

    @intrinsic
    def store(typingctx: Any, base: Any, index: Any, value: Any) -> Any:
        """Write the low 32 bits of `value` at base + 4 * index."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(builder.trunc(args[2], WORD), _pointer(builder, args[0], args[1]))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), codegen
