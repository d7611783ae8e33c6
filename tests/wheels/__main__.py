"""Install the built wheel as others will, and run the demo from it: `python -m tests.wheels [PYTHON ...]`.

Every PYTHON, or those of 3.11 to 3.14 that are found, gets two environments of its own: with the lowest versions that
pyproject.toml allows (or, where that Python has none so low, the lowest that it has), and with the newest. A line says what
`pip check` finds and how far the demo's numbers are from this environment's, what is fitted apart. Further lines resolve the
wheel beside engines and frameworks, from what packages say of themselves. Needs the package index, some minutes and 4 GB; exit 1
where anything is wrong.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.wheels.environments import COMMAND, NEWEST, OLDEST, Tools, apart, minor, pythons, runs, versions_in

BESIDE = (
    "verl==0.9.1", "verl[vllm]==0.9.1", "vllm==0.33.0", "vllm==0.32.0", "vllm==0.20.0", "vllm==0.19.0", "vllm==0.10.0",
    "sglang==0.5.23", "sglang==0.5.1",
)  # fmt: skip
SHOWN = ("numba", "numpy", "pandas", "pyarrow", "scipy", "pydantic", "click", "matplotlib")
MOST_APART, FITS_APART = 1e-14, 1e-6
"""Powers differ in the last digit from release to release of numpy, scipy's fits by least squares (`facts`) in more."""


def main(asked: list[str]) -> int:
    """Print the table; 1 where a line of it is not as it should be."""
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        tools = Tools(Path(place))
        tools.install()
        wheel = tools.build()
        (empty := tools.folder / "empty").mkdir()
        ours = runs(sys.executable, "-c", COMMAND, cwd=empty, PYTHONPATH=str(ROOT))
        print(
            f"| environment | pip check | demo, off by | its fits | {' | '.join(SHOWN)} |\n|{'---|' * (4 + len(SHOWN))}"
        )
        for python in map(Path, asked) if asked else pythons():
            for versions in (OLDEST, NEWEST):
                fine, line = installed(tools, python, versions, wheel, ours)
                wrong += not fine
                print(line, flush=True)
        for beside in BESIDE:
            fine, line = resolved(tools, beside, wheel)
            wrong += not fine
            print(line, flush=True)
    return int(wrong > 0)


def installed(tools: Tools, python: Path, versions: str, wheel: Path, ours: list[dict[str, Any]]) -> tuple[bool, str]:
    """Whether an environment with the wheel is as it should be, and its line."""
    name = f"{minor(python)}, {'floors' if versions == OLDEST else 'newest'}"
    try:
        made = tools.environment(python, versions, wheel)
        kept = str(tools.folder / "cache")
        theirs = runs(made.parent / "rolloutsim", cwd=tools.folder / "empty", XDG_CACHE_HOME=kept)
    except RuntimeError as error:
        return False, f"| {name} | {error} |"
    problem, found = tools.checked(made), versions_in(made)
    far, fits = (apart(*(told(rows) for rows in (ours, theirs))) for told in (figures, fitted))
    line = f"| {name} | {problem or 'clean'} | {far:.0e} | {fits:.0e} | {' | '.join(found[one] for one in SHOWN)} |"
    return not problem and far <= MOST_APART and fits <= FITS_APART, line


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but what was fitted."""
    return [{name: value for name, value in row.items() if name != "facts"} for row in rows]


def fitted(rows: list[dict[str, Any]]) -> list[Any]:
    """What was fitted."""
    return [row["facts"] for row in rows]


def resolved(tools: Tools, beside: str, wheel: Path) -> tuple[bool, str]:
    """Whether the wheel can be installed beside a package, and the line of its versions."""
    try:
        found = tools.resolved(beside, wheel)
    except RuntimeError as error:
        return False, f"| beside {beside} | {error} |"
    return True, f"| beside {beside} | resolved | | | {' | '.join(found[one] for one in SHOWN)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
