"""Four ways of doing RL rollouts side by side, and where the time goes.

On the recording in traces/data, and on made-up rollouts with the shape of a real run: 512 prompts x 16 samples x 6 RL steps,
lognormal lengths (median 2,500, half of the variance the prompt's) cut at 16,384 tokens, 16 replicas.
"""

import time

import numpy as np
import pyarrow as pa

from simulator import Scenario, run
from simulator.results import Result
from traces.io import from_table, read
from traces.trace import Trace

SEED, PROMPTS, SAMPLES, STEPS, MEDIAN, SIGMA, CAP = 0, 512, 16, 6, 2500, 1.0, 16_384
STAGES = ("reward:seconds=0.2,servers=64", "log_probs", "update", "sync")
SHOWN = ("system", "run_s", "run_speedup", "makespan_s", "reward_s", "train_s", "sync_s", "idle", "staleness", "carried",
         "recomputed_tokens")  # fmt: skip


def made() -> Trace:
    """Lengths alone: nothing is drafted."""
    rng = np.random.default_rng(SEED)
    share = SIGMA / np.sqrt(2)
    rows = PROMPTS * SAMPLES
    steps = []
    for step in range(STEPS):
        lengths = np.exp(
            np.log(MEDIAN) + np.repeat(rng.normal(0, share, PROMPTS), SAMPLES) + rng.normal(0, share, rows)
        )
        steps.append({
            "step": np.full(rows, step, np.int32),
            "prompt_id": np.repeat([f"{step}-{prompt}" for prompt in range(PROMPTS)], SAMPLES),
            "sample": np.tile(np.arange(SAMPLES, dtype=np.int32), PROMPTS),
            "prompt_tokens": np.full(rows, 256, np.int32),
            "output_tokens": np.clip(lengths, 1, CAP).astype(np.int32),
        })  # fmt: skip
    return from_table(pa.table({name: np.concatenate([one[name] for one in steps]) for name in steps[0]}), "made up")


def compared(trace: Trace, steps: list[int], drafter: str, policy: str, slots: int, replicas: int, stay: int) -> Result:
    in_flight = slots * replicas
    ways = {
        "sync": {},
        "divided": {"placement": f"divided:stay={stay},kv=pull"},
        "partial": {"loop": f"partial:rollouts={in_flight}"},
        "one-step async": {"loop": "one_step_async"},
    }
    systems = [{"name": name, "policy": policy, "stages": STAGES, **way} for name, way in ways.items()]
    return run(
        Scenario(
            trace=trace.source, model="qwen3-8b", device="h100", policies=[], systems=systems, steps=steps,
            drafter={"kind": drafter}, engine={"max_num_seqs": slots, "replicas": replicas},
        ),  # type: ignore[arg-type]
        trace,
    )  # fmt: skip


def tell(what: str, result: Result, took_s: float) -> None:
    frame = result.to_pandas("runs")
    frame["reward_s"] = result.to_pandas("rl_steps").groupby("system")["reward_s"].sum()[frame["system"]].to_numpy()
    frame["idle"] = frame["idle_gpu_s"] / (frame["gpus"] * frame["run_s"])
    print(f"\n{what}: {took_s:.1f} s\n\n| {' | '.join(SHOWN)} |\n|{'---|' * len(SHOWN)}")
    for row in frame[list(SHOWN)].to_dict("records"):
        print(f"| {' | '.join(shown(value) for value in row.values())} |", flush=True)


def shown(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    begun = time.perf_counter()
    shipped = read("traces/data/countdown.parquet")
    result = compared(shipped, list(range(15, 21)), "suffix", "das", 32, 4, 128)
    tell("countdown.parquet, RL steps 15 to 20, 4 replicas of 32 slots, das", result, time.perf_counter() - begun)
    begun = time.perf_counter()
    result = compared(made(), list(range(STEPS)), "none", "none", 256, 16, 2048)
    tell("made up, 16 replicas of 256 slots, no speculation", result, time.perf_counter() - begun)
