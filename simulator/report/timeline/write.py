"""write(...): a result as a trace file that ui.perfetto.dev and its trace processor open."""

import gzip
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from simulator.report.chosen import fastest, of_systems, with_all_steps
from simulator.report.timeline.protobuf import Writer
from simulator.report.timeline.tracks import cells_for, replicas_of, write_system
from simulator.results import Result
from traces.atomic import replacing

MOST_SYSTEMS = 16


def write(result: Result, path: Path) -> str:
    """Write the timeline, gzipped where the name ends so; returns what it holds, in words.

    Of many systems the first named and those of the best throughput are written. InputError where the file cannot be written.
    """
    runs = result.runs.to_pylist()
    kept = fastest(runs, "gpu_speedup", MOST_SYSTEMS)
    whole = with_all_steps(result.steps, kept)
    steps = of_systems(result.steps, whole)
    replicas = replicas_of(steps, result.rl_steps)
    cells = cells_for(sum(map(len, replicas.values())))
    with replacing(path) as file, _gzipped(file) if path.suffix == ".gz" else nullcontext(file) as out:
        writer = Writer(out)
        width = len(str(len(kept)))  # roots are shown by name
        about = writer.track("run", writer.track(f"{0:0{width}} about"))
        longest_s = max(run["run_s"] for run in kept)
        writer.slice(about, "rolloutsim", 0, round(1e9 * longest_s), {
            "version": result.about["rolloutsim"], "trace": result.about["trace"]["path"],
            "profile": result.about["profile"]["name"], "seed": result.about["seed"],
        })  # fmt: skip
        for rank, run in enumerate(kept, 1):
            write_system(
                writer, result, run, f"{rank:0{width}} {run['system']}", replicas.get(run["system"], []), cells
            )
    parts = [f"{len(kept):,} of {len(runs):,} systems"] if len(kept) < len(runs) else []
    missing = [run["system"] for run in kept if run["system"] not in whole]
    parts += [f"without decode steps of {', '.join(missing)}, which were not all kept"] if missing else []
    return "; ".join([f"{writer.events:,} events", *parts])


def _gzipped(file: IO[bytes]) -> gzip.GzipFile:
    """Without name and time: the same run makes the same bytes."""
    return gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="")
