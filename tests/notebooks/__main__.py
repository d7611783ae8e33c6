"""Execute the notebooks and write them beside their percent files: `python -m tests.notebooks [NAME ...]`, all without a name."""

import os
import sys
import time

from tests.notebooks.executed import FOLDER, NAMES, execute, notebook

os.environ.pop("ROLLOUTSIM_TRACE", None)  # what is written is of the shipped rollouts
for name in sys.argv[1:] or NAMES:
    since = time.perf_counter()
    cells, _ = execute(FOLDER / f"{name}.py")
    text = notebook(cells)
    (FOLDER / f"{name}.ipynb").write_text(text, "utf-8")
    print(f"{name}: {time.perf_counter() - since:.0f} s, {len(text) / 1e3:,.0f} kB", flush=True)
    print("".join(cell.printed for cell in cells if cell.printed))
