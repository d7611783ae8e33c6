"""Run the experiments named, or all of them: python -m tests.benchmarks.experiments [NAME ...]."""

import sys

from tests.benchmarks.experiments import batch, closed_forms, long_tails, paper_shape, scopes

EXPERIMENTS = {
    "scopes": scopes.main,
    "paper_shape": paper_shape.main,
    "batch": batch.main,
    "closed_forms": closed_forms.main,
    "long_tails": long_tails.main,
}

names = sys.argv[1:] or list(EXPERIMENTS)
if unknown := [name for name in names if name not in EXPERIMENTS]:
    sys.exit(f"experiment {unknown[0]!r} is unknown: use {', '.join(EXPERIMENTS)}")
for name in names:
    EXPERIMENTS[name]()
