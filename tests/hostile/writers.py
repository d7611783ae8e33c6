"""Every command that writes: arguments that make it write something small, and what that must be wherever it is there."""

import gzip
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from matplotlib.image import imread

from simulator.cost import load_profile
from simulator.drafting.cost import load_draft_cost
from tests.calibration.logs import write_log
from tests.calibration.test_import_dspark import TABLE
from tests.calibration.test_import_llmservingsim import small
from tests.conftest import ROOT
from tests.hostile.cases import PROFILE
from tests.report.test_timeline import read_back
from traces import io
from traces.synthesis import synth

TIMED = ROOT / "tests/calibration/live/timed"
POLICIES = f"--profile {PROFILE} --policy none --policy fixed:4 --seed {{n}}"
ADVICE = f"--profile {PROFILE} --max-num-seqs 8 --bootstrap 20 --seed {{n}} --drafter ngram"
DECODER = "--model tiny.json --threads 1"
LIMITS = "--max-num-seqs 4 --max-model-len 128 --max-width 3 --max-num-batched-tokens 128"
TINY = {
    "model_type": "llama", "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 97, "max_position_embeddings": 4096, "torch_dtype": "float32",
}  # fmt: skip
TABLES = {"runs", "rollouts", "steps"}
NO_WRITER = {
    "calibrate vllm --out": "needs vLLM, or a server of it: tests/calibration/live kills and interrupts it there",
    "validate --deployment": "is read",
    "trace import --tokenizer": "is read",
}
"""Options that take a path, and why none of the commands below gives them."""
Whole = Callable[[Path], None]


@dataclass(frozen=True)
class Writer:
    """A command, the file or folder that it writes, and what asserts that this is whole.

    {n} in a command is another number each time, so that what two runs wrote can be told apart. slow: it loads torch.
    """

    command: str
    target: str
    whole: Whole
    slow: bool = False

    def arguments(self, number: int = 1) -> list[str]:
        """What follows `rolloutsim`."""
        return self.command.replace("{n}", str(number)).split()

    @property
    def name(self) -> str:
        """The command without its values."""
        words = list(itertools.takewhile(lambda word: not word.startswith("-"), self.arguments()))
        flags = [word for word in self.arguments() if word in OUTPUTS or word in ("--seconds", "--system")]
        return " ".join([*(word for word in words if word.isalpha() or word == "vllm-log"), *flags])


OUTPUTS = ("--out", "--html", "--timeline", "--record", "--save-model")


def _trace(path: Path) -> None:
    assert len(io.read(path)) > 0


def _page(path: Path) -> None:
    assert path.read_text("utf-8").rstrip().endswith("</html>")


def _picture(path: Path) -> None:
    assert imread(path).std() > 0


def _timeline(path: Path) -> None:
    content = path.read_bytes()
    assert read_back(gzip.decompress(content) if path.suffix == ".gz" else content)


def _text(path: Path) -> None:
    assert path.read_text().endswith("\n")


def _json(path: Path) -> None:
    json.loads(path.read_text())


def _profile(path: Path) -> None:
    load_profile(path)


def _results(folder: Path) -> None:
    """All tables and pictures of one run, or nothing: the folder is made before anything is simulated."""
    found = {path.name for path in folder.iterdir()}
    if not found:
        return
    assert {*(f"{name}.parquet" for name in TABLES), "scenario.yaml", "makespan.png"} <= found, found
    tables = [pq.read_table(path) for path in folder.glob("*.parquet")]
    seeds = {json.loads(table.schema.metadata[b"rolloutsim"])["seed"] for table in tables}
    asked = yaml.safe_load((folder / "scenario.yaml").read_text())
    assert seeds == {asked["seed"]}, "of different runs"
    assert all(imread(path).size for path in folder.glob("*.png"))


def _advice(folder: Path) -> None:
    """The answer and what judged it, of one run, or nothing."""
    _results(folder)
    if any(folder.iterdir()):
        told = json.loads((folder / "advice.json").read_text())
        seed = yaml.safe_load((folder / "scenario.yaml").read_text())["seed"]
        assert f"--seed {seed} " in f"{told['command']} ", "of different runs"


def _cells(folder: Path) -> None:
    """Every line of the journal but the last is whole, and the table is there only when all cells are."""
    if (folder / "cells.jsonl").exists():
        for line in (folder / "cells.jsonl").read_bytes().splitlines(keepends=True)[:-1]:
            json.loads(line)
    if (folder / "cells.parquet").exists():
        assert len(set(pq.read_table(folder / "cells.parquet")["cell"].to_pylist())) == 6


def _files(whole: dict[str, Whole]) -> Whole:
    """All of these files, or none of them."""

    def check(folder: Path) -> None:
        found = {path.name for path in folder.iterdir()}
        assert not found or found == {*whole}, found
        for name in found:
            whole[name](folder / name)

    return check


def _draft_cost(path: Path) -> None:
    load_draft_cost(str(path))


def _campaign(folder: Path) -> None:
    """Whatever is there is whole, and the report only when all that it is about is."""
    for path in folder.glob("*.parquet"):
        pq.read_table(path)
    if (folder / "ground_truth.json").exists():
        _json(folder / "ground_truth.json")
        assert {path.name for path in folder.iterdir()} >= {"profile.parquet", "truth-2.parquet", "ground_truth.md"}


def _parquet(path: Path) -> None:
    assert pq.read_table(path).num_rows > 0


def _model(folder: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        if (folder / name).exists():
            _json(folder / name)


ROOF = "--roof h200 --model qwen3-8b"
WRITERS = (
    Writer(f"replay trace.parquet {POLICIES} --out out", "out", _results),
    Writer(f"replay trace.parquet {POLICIES} --policy das --out out", "out", _results),
    Writer(f"replay trace.parquet {POLICIES} --html page.html", "page.html", _page),
    Writer(f"replay trace.parquet {POLICIES} --timeline t.pftrace", "t.pftrace", _timeline),
    Writer("run scenario.yaml --set seed={n} --out out2", "out2", _results),
    Writer("run scenario.yaml --set seed={n} --html page2.html", "page2.html", _page),
    Writer("run scenario.yaml --set seed={n} --timeline t2.pftrace.gz", "t2.pftrace.gz", _timeline),
    Writer(f"advise trace.parquet {ADVICE} --out advice", "advice", _advice),
    Writer(f"advise trace.parquet {ADVICE} --html advice.html", "advice.html", _page),
    Writer(f"validate log --profile {PROFILE} --model llama-3.1-8b --out validated", "validated",
           _files({"validation.json": _json, "validation.png": _picture})),
    Writer(f"validate {TIMED} --seconds --fit none@4 --fit none@16 --fit ngram-4@4 --out seconds", "seconds",
           _files({
               "seconds.json": _json, "profile.yaml": _profile, "ngram.yaml": _draft_cost, "ngram-host.yaml": _draft_cost,
               "suffix-global.yaml": _draft_cost, "suffix-global-host.yaml": _draft_cost,
           })),
    Writer("sweep scenario.yaml engine.max_num_seqs=2,4,8 policy=none,fixed:2 --out sweep --workers 1", "sweep", _cells),
    Writer("acceptance trace.parquet --drafter ngram --record recorded.parquet", "recorded.parquet", _trace),
    Writer("trace synth --prompts 20 --samples 8 --steps 2 --out made.parquet --force", "made.parquet", _trace),
    Writer("trace import trace.parquet --out imported.parquet --force", "imported.parquet", _trace),
    Writer("trace describe trace.parquet --out lengths.png --force", "lengths.png", _picture),
    Writer(f"profile show {PROFILE} {ROOF} --out shown", "shown", _files(
        {f"{PROFILE}{part}.png": _picture for part in ("", "-operators", "-roof")})),
    Writer("profile import aiconfigurator --model qwen3-8b --out aic.parquet --force", "aic.parquet", _profile),
    Writer("profile import llmservingsim kernels --model llama-3.1-8b --out sum.parquet --force", "sum.parquet", _profile),
    Writer("profile import table steps.csv --model m --device d --out table.yaml --force", "table.yaml", _profile),
    Writer("profile import vllm-log server.log --model m --device d --out log.yaml --force", "log.yaml", _profile),
    Writer("profile import dspark sps.json --model m --device d --out dspark.parquet --force", "dspark.parquet", _profile),
    Writer(f"profile export dspark {PROFILE} --out exported.json --force", "exported.json", _json),
    Writer("calibrate drafter --history-tokens 1000 --out drafter.yaml", "drafter.yaml", _draft_cost),
    Writer(f"calibrate validate {ROOT}/calibration/ground_truth/epyc-dense-4-layers-at-4.parquet --profile epyc-dense-4-layers "
           f"--trace {ROOT}/traces/data/countdown.parquet --out truth", "truth",
           _files({"ground_truth.json": _json, "ground_truth.md": _text, "ground_truth.png": _picture})),
    Writer(f"calibrate kernels {DECODER} {LIMITS} --out kernels.parquet", "kernels.parquet", _profile, slow=True),
    Writer(f"calibrate replay trace.parquet {DECODER} --policy none --profile {PROFILE} --step 1 --rollouts 4 "
           "--max-output-tokens 8 --max-num-seqs 2 --out decoded.parquet", "decoded.parquet", _parquet, slow=True),
    Writer(f"calibrate campaign trace.parquet {DECODER} {LIMITS} --step 1 --at 2 --policy none --max-output-tokens 8 "
           "--repeats 1 --out campaign", "campaign", _campaign, slow=True),
    Writer("calibrate record --prompts 8 --samples 2 --steps 2 --max-tokens 20 --sft-steps 4 --threads 1 --out rl.parquet "
           "--save-model model", "rl.parquet", _trace, slow=True),
)  # fmt: skip


def writers() -> list[Writer]:
    """Those that can run here."""
    there = {"aiconfigurator": find_spec("aiconfigurator_core") is not None}
    torch = find_spec("torch") is not None
    return [one for one in WRITERS if (torch or not one.slow) and there.get(one.arguments()[2], True)]


def fill(folder: Path) -> None:
    """Write what the commands read."""
    table = synth(prompts=6, samples=4, steps=3, median_tokens=80, max_tokens=400, vocabulary=97, seed=3)
    io.write(table, folder / "trace.parquet", {"made": "for tests"})
    scenario: dict[str, Any] = {
        "version": 1, "trace": "trace.parquet", "profile": PROFILE, "policies": ["none", "fixed:2"],
    }  # fmt: skip
    (folder / "scenario.yaml").write_text(yaml.safe_dump(scenario))
    (folder / "tiny.json").write_text(json.dumps(TINY))
    write_log(folder / "log")
    (folder / "steps.csv").write_text("num_reqs,tokens_per_req,context_len,tp,latency_ms\n1,1,100,1,5\n8,1,100,1,6\n")
    (folder / "sps.json").write_text(json.dumps(TABLE))
    small(folder / "kernels")
    (folder / "server.log").write_text("\n".join(
        f"INFO Iteration({n}): 0 context requests, 0 context tokens, {n} generation requests, {n} generation tokens, iteration "
        f"elapsed time: {5 + n / 10:.2f} ms" for n in range(1, 101)
    ))  # fmt: skip
