"""Write the figures that the golden test compares with: `python -m tests.golden [NAME ...]`, all unless named."""

import json
import os
import sys
from pathlib import Path

from tests.golden.figures import STORED, figures
from tests.golden.scenarios import SCENARIOS

data = Path(os.environ.get("ROLLOUTSIM_DATA", Path(__file__).parents[3] / "shared"))
stored = json.loads(STORED.read_text()) if STORED.exists() else {}
for name in sys.argv[1:] or SCENARIOS:
    stored[name] = figures(SCENARIOS[name], data)
    print(name, [run["makespan_s"] for run in stored[name]["runs"]], flush=True)
ordered = {name: stored[name] for name in SCENARIOS}
STORED.write_text(json.dumps(ordered, indent=1, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")
