"""Compile the fused kernels for a Hopper GPU, which takes none, and print what each does as a line of JSON."""

import json
import re

from calibration.model import fused, fused_kernels
from tests.calibration.model.compile_flash import compiled

TENSORS = "x residual weight normed total qkv query_norm key_norm turns keys values both out"
TYPES = dict.fromkeys(TENSORS.split(), "*bf16") | {"slots": "*i64", "positions": "*i64"}
HEADS = {"HEADS": 28, "KV_HEADS": 4, "HALF": 64, "BLOCK_HALF": 64, "ROWS": fused.HEAD_BLOCK // 128}
KERNELS = (
    (fused_kernels.add_norm, {"HIDDEN": 5120, "BLOCK": 8192}, 8192 // fused.ROW_WARP_ELEMENTS),
    (fused_kernels.gated, {"WIDTH": 18944, "BLOCK": fused.GATED_BLOCK}, fused.GATED_WARPS),
    (fused_kernels.turn_append, HEADS, fused.HEAD_WARPS),
    (fused_kernels.turn_append, HEADS | {"query_norm": None, "key_norm": None}, fused.HEAD_WARPS),
)


def main() -> None:
    for kernel, constants, warps in KERNELS:
        made = compiled(kernel, TYPES, constants, num_warps=warps)
        code = made.asm["ptx"]
        accesses = re.findall(r"(?:ld|st)\.global\S*\.v4\.b32|(?:ld|st)\.global\S*", code)
        print(
            json.dumps(
                {
                    "kernel": made.metadata.name,
                    "shared_bytes": made.metadata.shared,
                    "vectors": sum(one.endswith(".v4.b32") for one in accesses),
                    "others": sum(not one.endswith(".v4.b32") for one in accesses),
                }
            )
        )


if __name__ == "__main__":
    main()
