"""Run hostile inputs: `python -m tests.hostile [KIND [SEED [NUMBER]]]`; what failed is printed with how to repeat it."""

import sys
import tempfile
from pathlib import Path

from tests.hostile.cases import fault, run
from tests.hostile.kinds import COUNTS, KINDS, faults

if len(sys.argv) > 3:
    kind, seed, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    case = next(case for at, case in enumerate(KINDS[kind](seed, COUNTS[kind])) if at == number)
    with tempfile.TemporaryDirectory() as folder:
        print(case.name, fault(case, Path(folder)) or "as it should be", run(case.arguments, Path(folder)), sep="\n")
else:
    for kind in sys.argv[1:2] or KINDS:
        seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        tried, found = faults(kind, seed)
        print(f"{kind}: {tried} tried, {len(found)} wrong", *found, sep="\n  ", flush=True)
