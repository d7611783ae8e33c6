"""Print sweeps as Markdown tables: `python -m tests.pays [NAME ...]`, all without a name."""

import sys

from tests.pays.sweep import NAMES, load, results

COLUMNS = ("speed-up", "90 % range", "rollout s", "RL step s", "sync's", "acc. length", "idle", "recomputed")


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        sweep = load(name)
        print(f"| {name}: {sweep.key.partition('.')[2]} | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
        for value, result in results(sweep):
            base, own = result.runs.to_pylist()
            cells = (
                f"{own['gpu_speedup']:.2f}", f"{own['gpu_speedup_low']:.2f} to {own['gpu_speedup_high']:.2f}",
                f"{own['makespan_s'] / own['rl_steps']:,.1f}", f"{own['run_s'] / own['rl_steps']:,.1f}",
                f"{base['run_s'] / base['rl_steps']:,.1f}", f"{own['mean_acceptance_length']:.2f}",
                f"{own['idle_gpu_s'] / (own['gpus'] * own['run_s']):.0%}", f"{own['recomputed_tokens']:,}",
            )  # fmt: skip
            print(f"| {value} | {' | '.join(cells)} |")
        print()


if __name__ == "__main__":
    main()
