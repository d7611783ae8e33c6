"""write(...): a result as one HTML file that loads nothing, for people who were not there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from simulator.report.chosen import fastest
from simulator.report.page import charts, tables, words
from simulator.results import Result
from simulator.scenario import Scenario
from traces.atomic import replacing

MOST_DRAWN = 16
MOST_ROWS = 1000
LONGEST_NAME, LONGEST_NOTE = 200, 2000
PER_COLUMN = 6
"""Systems across in the table of RL steps."""


def write(result: Result, scenario: Scenario, path: Path, command: str = "") -> None:
    """Write the page, replacing the file as a whole. command: what made the result, for who wants it again.

    Raises InputError where the file cannot be written.
    """
    content = page(result, scenario, command).encode("utf-8", "backslashreplace")
    with replacing(path) as file:
        file.write(content)


def page(result: Result, scenario: Scenario, command: str = "") -> str:
    """The page's text."""
    loader = PackageLoader("simulator.report.page", ".")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"shown": shown, "note": lambda text: shown(text, LONGEST_NOTE)}
    return made.get_template("page.html.j2").render(content(result, scenario, command))


def content(result: Result, scenario: Scenario, command: str = "") -> dict[str, Any]:
    """What the template shows."""
    runs, policies, verdict = result.runs.to_pylist(), words.of_policies(result), words.verdict(result)
    ratio = "speedup" if policies else "gpu_speedup"
    drawn, listed = (fastest(runs, ratio, most, verdict.best) for most in (MOST_DRAWN, MOST_ROWS))
    best = None if verdict.best is None else runs[verdict.best]
    at = next((i for i, run in enumerate(listed) if run is best), None)
    names = [run["system"] for run in drawn]
    seconds = charts.seconds_by_operator(result, names)
    assumptions = words.assumptions(runs)
    return {
        "verdict": verdict,
        "replayed": words.replayed(result),
        "trace": Path(result.about["trace"]["path"]).name,
        "about": result.about,
        "policies": policies,
        "first": runs[0],
        "best": best,
        "count": len(runs),
        "drawn": len(drawn),
        "listed": len(listed),
        "makespans": charts.makespans(drawn),
        "gpu_time": None if policies else charts.gpu_time(drawn),
        "compared": tables.comparison(listed, at) if policies else tables.systems(listed, at),
        "verdicts": tables.verdicts(result),
        "live": charts.live(result, drawn),
        "operators": charts.operators(seconds),
        "operator_table": tables.operators(seconds),
        "lengths": charts.acceptance_lengths(drawn),
        "drafter": runs[0]["drafter"],
        "by_position": charts.by_position(result.acceptance),
        "by_emitted": charts.by_emitted(result.acceptance),
        "straggling": tables.stragglers(result, listed),
        "last": tables.last_rollouts(result, runs[0]["system"], None if best is None else best["system"]),
        "rl_steps": tables.rl_steps(result, fastest(runs, ratio, PER_COLUMN, verdict.best)),
        "latencies": tables.latencies(listed) if result.about["arrivals"] else None,
        "facts": tables.facts(listed),
        "basis": _basis(runs),
        "errors": words.errors(result),
        "assumptions": assumptions,
        "notes": [told for told in result.about["warnings"] if told not in assumptions],
        "provenance": [*tables.provenance(result)],
        "command": command,
        "scenario": scenario.yaml(),
    }


def shown(text: object, most: int = LONGEST_NAME) -> str:
    """Text as a page can show it: what no font shows written as Python writes it, and cut where it is too long."""
    text = str(text)
    if len(text) > most:
        text = f"{text[:most]}… ({len(text) - most:,} characters more)"
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def _basis(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the seconds of stages rest on; the same for all systems that have them, or each said."""
    return list(dict.fromkeys(item for run in runs for item in json.loads(run["basis"]).items()))
