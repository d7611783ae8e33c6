"""From a dump in each format to an advice and its page: seconds of either command, and the answer.

    python -m tests.benchmarks.dumps

The dumps are small made-up ones in the layouts of frameworks and engines (`ROLLOUTSIM_DATA`, folder cases), and public serving
traces: most answers are that so few rollouts cannot tell.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import ROOT

DATA = Path(os.environ.get("ROLLOUTSIM_DATA", ROOT.parent / "shared"))
CASES, TOKENS = DATA / "cases", ("--tokenizer", str(DATA / "cases/imports/tokenizer.json"))
DUMPS = {
    "verl": (CASES / "imports/verl", TOKENS),
    "slime": (CASES / "imports/slime", ()),
    "NeMo-RL": (CASES / "imports/nemo", ()),
    "TRL": (CASES / "imports/completions_00010.parquet", TOKENS),
    "AReaL": (CASES / "imports/areal.jsonl", TOKENS),
    "SkyRL": (CASES / "imports/skyrl_dump.jsonl", TOKENS),
    "verifiers": (CASES / "imports/verifiers_results.jsonl", ()),
    "lm-eval": (CASES / "imports/samples_gsm8k.jsonl", TOKENS),
    "OpenAI batch": (CASES / "imports/openai_batch_output.jsonl", ()),
    "vLLM benchmark": (CASES / "bench/vllm_plain.json", ()),
    "SGLang benchmark": (CASES / "bench/sglang_plain.jsonl", ()),
    "BurstGPT": (CASES / "imports/BurstGPT.csv", ()),
    "Azure 2024": (CASES / "imports/azure2024.csv", ()),
    "Azure 2023": (DATA / "serving/AzureLLMInferenceTrace_code.csv", ()),
    "Mooncake": (DATA / "serving/mooncake_conversation_trace.jsonl", ()),
    "Mooncake tool and agent": (CASES / "imports/toolagent_trace.jsonl", ()),
    "Splitwise": (CASES / "imports/splitwise.csv", ()),
}
COMMAND = [sys.executable, "-m", "simulator.cli"]


def main() -> None:
    """Print the rows."""
    print("| dump | rollouts | import s | advise s | answer |\n|---|---|---|---|---|")
    for name, (source, flags) in DUMPS.items():
        with tempfile.TemporaryDirectory() as folder:
            trace = f"{folder}/trace.parquet"
            _, import_s = _timed("trace", "import", str(source), *flags, "--drop-empty", "--out", trace)
            told, _ = _timed("trace", "describe", trace, "--json")
            costs = ("--model", "qwen3-8b", "--device", "h100", "--engine", "vllm==0.33", "--framework", "verl")
            advice, advise_s = _timed("advise", trace, *costs, "--html", f"{folder}/page.html", "--json")
            rollouts = json.loads(told)["rollouts"]
            answer = json.loads(advice)["verdict"] if advice.startswith("{") else advice
        print(f"| {name} | {rollouts:,} | {import_s:.1f} | {advise_s:.1f} | {answer} |", flush=True)


def _timed(*arguments: str) -> tuple[str, float]:
    """What a command prints, or its one line where it refuses, and its seconds."""
    started = time.perf_counter()
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and arguments[0] == "trace":
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    return (done.stdout if done.returncode == 0 else done.stderr.strip()), time.perf_counter() - started


if __name__ == "__main__":
    main()
