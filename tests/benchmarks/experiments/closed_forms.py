"""DAS's closed forms: what each reaches of its target, how well Eq. 3 fits recorded rollouts, and what that costs."""

import json

import numpy as np

from tests.benchmarks.closed_form import INSTANCES, achieved, instances
from tests.benchmarks.experiments.paper_shape import ONE_GPU
from tests.benchmarks.experiments.parts import LLAMA, R1, head, made_up, recorded, replayed, row, samples_as_steps
from traces.synthesis import synth

FORMS = ("das", "das:form=printed")
SHORT, MEDIUM, LONG = (0, 2, 4, 8), (0, 2, 4, 8, 16, 24), (2, 4, 8, 16, 24)
GRID = tuple(f"das:budgets={s}/{m}/{n}" for s in SHORT for m in MEDIUM for n in LONG if s <= m <= n)
ZERO_SHORT = tuple(spec for spec in GRID if spec.startswith("das:budgets=0/"))


def forms() -> None:
    """Print the achieved over the target forward passes of each form."""
    head(f"closed_forms: {INSTANCES:,} random instances, N reached / N aimed at", "form", "median", "95 %", "worst")
    found = instances()
    for form in ("corrected", "printed"):
        ratio = np.array([achieved(one, form)[0] for one in found])
        row(form, *(f"{value:.3f}" for value in (np.median(ratio), np.quantile(ratio, 0.95), ratio.max())))


def misfit() -> None:
    """Print how Eq. 3 fits, and the gap that its budgets close against those of the best budgets of a grid."""
    head(
        f"closed_forms: fit of Eq. 3 on the history, and share of the gap from none to the bound closed; grid of {len(GRID)}",
        "trace", "max_num_seqs", "k", "alpha", "R²", "RMSE of accepted / length", "das budgets", "das", "das:form=printed",
        "best 0/M/L", "closed", "best S/M/L", "closed", "unlimited",
    )  # fmt: skip
    llama = recorded("llama3b_rl_math")
    cases = [("llama3b_rl_math, step 1", llama, LLAMA, slots) for slots in (16, 64, 256)]
    for name in ("qwq32b_long_cot", "qwen3_30b_a3b_long_cot"):
        split = samples_as_steps(recorded(name), 1)
        cases += [(f"{name}, samples 1 and 2 after sample 0", split, LLAMA, slots) for slots in (16, 256)]
    cases.append(("paper_budgets, as stated, RL step 2", made_up(synth(**ONE_GPU | {"steps": 3})), R1, 256))
    for name, trace, profile, slots in cases:
        step = trace.steps[-1]
        specs = [*FORMS, "unlimited", *GRID]
        result = replayed(trace, profile, specs, steps=[step], max_num_seqs=slots, compare={"bootstrap": 0})
        closed = {found["policy"]: found["closed"] for found in result.comparison.table.to_pylist()}  # type: ignore[union-attr]
        facts = json.loads(result.runs.to_pylist()[0]["facts"])[str(step)]
        own = "/".join(str(facts[f"budget_{which}"]) for which in ("short", "medium", "long"))
        fit = [f"{facts[key]:.3f}" for key in ("fit_k", "fit_alpha", "fit_r2", "fit_rmse")]
        shares = [f"{closed[spec]:.1%}" for spec in FORMS]
        for grid in (ZERO_SHORT, GRID):
            best = max(grid, key=closed.__getitem__)
            shares += [best.partition("=")[2], f"{closed[best]:.1%}"]
        row(name, slots, *fit, own, *shares, f"{closed['unlimited']:.1%}")


def main() -> None:
    """Print both tables."""
    forms()
    misfit()
