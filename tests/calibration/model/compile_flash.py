"""Compile the attention kernels for a Hopper GPU, which takes none, and print what each needs as a line of JSON.

The interpreter accepts what the compiler refuses (a name of two types in two branches, say), and cannot tell whether two
programs fit a multiprocessor.
"""

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from calibration.model import flash_kernels
from calibration.model.flash import PARTS, Settings

HOPPER = GPUTarget("cuda", 90, 32)


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], **options: int) -> Any:
    """A kernel for pointers and strides that 16 divides, as a decoder's are; `types` by name, strides and counts int32."""
    signature, values, hints = {}, {}, {}
    for at, name in enumerate(kernel.arg_names):
        signature[name] = "constexpr" if name in constants else types.get(name, "i32")
        if name in constants:
            values[at,] = constants[name]
        elif signature[name].startswith("*") or name.endswith("stride"):
            hints[at,] = [["tt.divisibility", 16]]
    return triton.compile(ASTSource(kernel, signature, values, hints), target=HOPPER, options=options)


def main() -> None:
    settings = Settings()
    types = dict.fromkeys(("query", "keys", "values", "out"), "*bf16")
    types |= {"partials": "*fp32", "partial_logs": "*fp32", "plan": "*i32", "scale_log2": "fp32"}
    head = {"HEAD_DIM": 128, "BLOCK_DIM": 128}
    blocks = {
        "GROUP": 4,
        "KV_HEADS": 8,
        "TILE": settings.tile_bytes // 256,
        "NARROW": settings.narrow_rows,
        "WIDE": settings.wide_rows,
        "NARROW_STAGES": settings.narrow_stages,
        "WIDE_STAGES": settings.wide_stages,
        "PRECISION": "tf32",
        "WIDEN": False,
    }
    attend = compiled(flash_kernels.attend, types, head | blocks, num_warps=settings.warps)
    merge = compiled(flash_kernels.merge, types, head | {"HEADS": 32, "PARTS": PARTS}, num_warps=1)
    for kernel in (attend, merge):
        code = kernel.asm["ptx"]
        print(
            json.dumps(
                {
                    "kernel": kernel.metadata.name,
                    "shared_bytes": kernel.metadata.shared,
                    "copies_of_16_bytes": code.count("cp.async.cg.shared.global"),
                    "wgmma": code.count("wgmma.mma_async"),
                }
            )
        )


if __name__ == "__main__":
    main()
