"""Run the experiments named, or all of them: python -m tests.benchmarks.experiments [NAME ...]."""

import sys
import time

from tests.benchmarks.experiments import batch, closed_forms, combined, long_tails, paper_shape, scopes, systems, vllm

EXPERIMENTS = {
    "scopes": scopes.main,
    "paper_budgets": paper_shape.budgets,
    "paper_scopes": paper_shape.scopes,
    "paper_windows": paper_shape.windows,
    "batch": batch.main,
    "closed_forms": closed_forms.main,
    "long_tails": long_tails.main,
    "systems": systems.main,
    "combined": combined.main,
    "vllm": vllm.main,
}

names = sys.argv[1:] or [name for name in EXPERIMENTS if name != "vllm"]  # which needs a recording
if unknown := [name for name in names if name not in EXPERIMENTS]:
    sys.exit(f"experiment {unknown[0]!r} is unknown: use {', '.join(EXPERIMENTS)}")
for name in names:
    started = time.perf_counter()
    EXPERIMENTS[name]()
    print(f"\n({name}: {time.perf_counter() - started:.0f} s)", flush=True)
