"""Decode steps from aiconfigurator's tables beside the roofs and its own estimates: python -m tests.benchmarks.tables

And Llama-3.1-8B on an H100 beside the fit that was published for it (vLLM, profile h100-llama-3.1-8b-published).
"""

import contextlib
import io
import logging

from aiconfigurator_core.sdk.engine import EngineHandle

from calibration.imports.aic_source import open_source
from calibration.imports.aiconfigurator import import_aiconfigurator
from simulator.catalogue import load_model
from simulator.cost import Profile, StepWork, load_profile
from simulator.cost.model_config import model_shape
from tests.calibration.data_sheet import roof_s

MODELS = (("qwen3-8b", 1, 1), ("qwen3-30b-a3b", 1, 1), ("deepseek-v3", 8, 8))
SYSTEMS, ENGINES = ("h100_sxm", "h200_sxm", "b200_sxm"), ("vllm", "sglang", "trtllm")
POINTS = ((1, 1024, 1), (64, 1024, 1), (64, 4096, 1), (64, 4096, 4))
"""Live sequences, context of each, query tokens of each."""
PUBLISHED = "h100-llama-3.1-8b-published"
FITTED = tuple((live, context) for live in (1, 16, 64, 256) for context in (512, 2048, 8192))


def beside_the_roof() -> None:
    """Print milliseconds of each step, over the roof, and by aiconfigurator itself, which knows one query a sequence only."""
    head = " | ".join(f"{live} x {context:,}, {query} a sequence" for live, context, query in POINTS)
    print(f"ms (over the roof; aiconfigurator)\n\n| model | GPUs | engine | {head} |\n|{'---|' * (3 + len(POINTS))}")
    for model, tp, ep in MODELS:
        shape = model_shape(load_model(model)).shard(tp)
        for system in SYSTEMS:
            for engine in ENGINES:
                profile = import_aiconfigurator(None, load_model(model), system, engine, tp, ep)
                source = open_source(None, system, engine, None)
                theirs, cells = _estimates(model, system, engine, tp, ep), []
                for point, other in zip(POINTS, theirs, strict=True):
                    seconds = _seconds(profile, *point)
                    over = seconds / float(roof_s(shape, source.figures, *point))
                    cells.append(f"{1e3 * seconds:.2f} ({over:.2f}; {other})")
                print(f"| {model} | {tp} x {system} | {engine} {source.version} | {' | '.join(cells)} |")


def beside_the_fit() -> None:
    """Print milliseconds by the tables over those of the published fit, one and four query tokens a sequence."""
    fit, tables = load_profile(PUBLISHED), import_aiconfigurator(None, load_model("llama-3.1-8b"), "h100_sxm")
    head = "tables, 1 a sequence, ms | fit | off | tables, 4 a sequence, ms | fit | off"
    print(f"\n| live | context | {head} |\n|{'---|' * 8}")
    for live, context in FITTED:
        cells = []
        for query in (1, 4):
            ours, published = (1e3 * _seconds(one, live, context, query) for one in (tables, fit))
            cells += [f"{ours:.2f}", f"{published:.2f}", f"{ours / published - 1:+.0%}"]
        print(f"| {live} | {context:,} | {' | '.join(cells)} |")


def _seconds(profile: Profile, live: int, context: int, query: int) -> float:
    return float(profile.step_time_s(StepWork.decode(live, context, query)))


def _estimates(model: str, system: str, engine: str, tp: int, ep: int) -> list[str]:
    """What aiconfigurator's own model gives, in milliseconds; it has none for several queries a sequence."""
    path = str(load_model(model)["_name_or_path"])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            handle = EngineHandle.compile(path, system, engine, tp_size=tp, moe_tp_size=tp // ep, moe_ep_size=ep)
            found = {point: handle.predict_decode_latency(point[0], point[1] - 1) for point in POINTS if point[2] == 1}
        except Exception as error:  # its own errors have no common class
            return [type(error).__name__, *["-"] * (len(POINTS) - 1)]
    return [f"{found[point]:.2f}" if point in found else "-" for point in POINTS]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    beside_the_roof()
    beside_the_fit()
