"""The ordering of policies on recorded long tails, by how many sequences an engine may hold."""

from tests.benchmarks.experiments.parts import LLAMA, head, recorded, replayed, row, samples_as_steps

POLICIES = ("none", "fixed:4", "unlimited", "das", "das:budgets=0/8/24")
LONG_COT = ("qwq32b_long_cot", "qwen3_30b_a3b_long_cot")


def main() -> None:
    """Print the table."""
    head(
        f"long_tails: profile {LLAMA}, suffix problem + own; seconds, and speed-up against none",
        "rollouts", "max_num_seqs", *POLICIES,
    )  # fmt: skip
    cases = [(f"{name}, cold", recorded(name), 0) for name in LONG_COT]
    cases += [(f"{name}, samples 1 and 2 after sample 0", samples_as_steps(recorded(name), 1), 1) for name in LONG_COT]
    cases += [("llama3b_rl_math, step 1", recorded("llama3b_rl_math"), 1)]
    for name, trace, step in cases:
        for slots in (16, 64, 256):
            runs = replayed(trace, LLAMA, POLICIES, steps=[step], max_num_seqs=slots).runs.to_pylist()
            cells = [f"{run['makespan_s']:.1f} ({run['speedup']:.3f})" for run in runs]
            row(f"{name} ({runs[0]['rollouts']:,})", slots, *cells)
