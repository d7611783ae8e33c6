# %% [markdown]
"""
# A real RL run, recorded

**It learns, its lengths have a heavy tail, and the same problem's past is what a drafter can use.**

- GRPO raises the solved share from 54% to 67% (z = 7.5)
- Lengths have a heavy tail: p99 is 12 times the median; the median goes from 98 to 89 tokens
- The problem's own past adds 3.56 tokens per decode step, another problem's 0.43
- An update changes the probability of 0.6% of the step's tokens by more than 20%
- Rollouts took 45% of the RL steps' 13.1 minutes

A small transformer solves Countdown problems by writing its search out, and gets better at it by GRPO. Every rollout of
the run is in `traces/data/countdown.parquet`; `rolloutsim calibrate record` made it (the file's metadata says how).
Here: does it learn, how long are its rollouts, what does a drafter make of them, and where did the time go.

- **Trace**: the one named by `ROLLOUTSIM_TRACE`, else the one shipped.
"""

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import traces
from simulator.drafting.alone import acceptance_by_step
from simulator.drafting.suffix import Suffix
from simulator.report.finding import finish, panels
from traces.io import from_table, provenance, read

PATH = Path(os.environ.get("ROLLOUTSIM_TRACE") or Path(traces.__file__).parent / "data" / "countdown.parquet")
TRACE = read(PATH)
ORIGIN = provenance(TRACE.table)
STEPS = np.array(TRACE.steps)
PROMPTS = len(TRACE.prompt_ids)
TRUNCATED = np.array([reason == "length" for reason in TRACE.table.column("finish_reason").to_pylist()])

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#666666"
RECORDED = (
    f"trace {PATH.stem}: {len(TRACE):,} rollouts, {PROMPTS} prompts × {len(TRACE) // PROMPTS // len(STEPS)} samples "
    f"× {len(STEPS)} RL steps, {TRACE.offsets[-1]:,} response tokens"
)


def over_steps(columns=1):
    """Make axes side by side, over RL steps."""
    figure, axes = panels(9.2 if columns == 1 else 12, 4.9, columns)
    for one in np.atleast_1d(axes):
        one.set_xlabel("RL step (an epoch each: every prompt is in every step)")
        one.grid(axis="y", alpha=0.3)
    return figure, axes


# %% [markdown]
# ## It learns
#
# The reward is 1 for a correct answer and 0 otherwise. The z-score compares each prompt with itself: its mean reward in
# the last quarter of the steps less that in the first, over the standard error of that difference between prompts.

# %%
REWARDS = TRACE.table.column("reward").to_numpy()
BY_PROMPT = np.zeros((len(STEPS), PROMPTS))
np.add.at(BY_PROMPT, (np.searchsorted(STEPS, TRACE.step), TRACE.prompt), REWARDS)
BY_PROMPT /= len(TRACE) / BY_PROMPT.size
REWARD = BY_PROMPT.mean(axis=1)
QUARTER = max(len(STEPS) // 4, 1)
DIFFERENCE = BY_PROMPT[-QUARTER:].mean(axis=0) - BY_PROMPT[:QUARTER].mean(axis=0)
Z_SCORE = DIFFERENCE.mean() / (DIFFERENCE.std(ddof=1) / np.sqrt(PROMPTS))

figure, axes = over_steps()
error = BY_PROMPT.std(axis=1, ddof=1) / np.sqrt(PROMPTS)
axes.fill_between(STEPS, REWARD - error, REWARD + error, color=BLUE, alpha=0.2, lw=0)
axes.plot(STEPS, REWARD, color=BLUE, marker="o")
axes.set_ylim(0, 1)
axes.yaxis.set_major_formatter("{x:.0%}")
axes.set_ylabel("rollouts that solve their problem")
first, last = REWARD[:QUARTER].mean(), REWARD[-QUARTER:].mean()
print(
    finish(
        figure,
        f"GRPO {'raises' if last > first else 'lowers'} the solved share from {first:.0%} to {last:.0%} (z = {Z_SCORE:.1f})",
        f"mean of the first {QUARTER} and the last {QUARTER} RL steps; band: standard error over prompts",
        RECORDED,
    )
)

# %% [markdown]
# ## Its rollouts have a heavy tail
#
# A search ends when it is lucky. Some end after one try, some wander until they are cut.

# %%
CAP = int(TRACE.output_tokens.max())
SHOWN = {"median": 50, "p90": 90, "p99": 99, "max": 100}
LENGTHS = [TRACE.output_tokens[TRACE.step == step] for step in STEPS]
QUANTILE = {name: np.array([np.percentile(one, q) for one in LENGTHS]) for name, q in SHOWN.items()}
CUT = np.array([TRUNCATED[TRACE.step == step].mean() for step in STEPS])
LABELS = {name: name for name in SHOWN}
if QUANTILE["p99"][-1] == QUANTILE["max"][-1]:
    LABELS |= {"p99": "", "max": "p99, max"}
TAIL = np.percentile(TRACE.output_tokens, 99) / np.median(TRACE.output_tokens)

figure, (left, right) = over_steps(2)
for (name, values), shade in zip(QUANTILE.items(), plt.get_cmap("Blues")([0.95, 0.75, 0.55, 0.4]), strict=True):
    left.plot(STEPS, values, color=shade, marker="o", ms=4)
    beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "color": shade}
    left.annotate(LABELS[name], (STEPS[-1], values[-1]), **beside)
left.set_yscale("log", base=2)
left.yaxis.set_major_formatter("{x:.0f}")
left.set_ylim(bottom=8)
left.set_xlim(right=STEPS[-1] + 0.12 * max(len(STEPS), 2))
left.set_ylabel("response length (tokens, log scale)")
right.plot(STEPS, CUT, color=ORANGE, marker="o")
right.set_ylim(0, max(1.15 * CUT.max(), 0.01))
right.yaxis.set_major_formatter("{x:.1%}")
right.set_ylabel(f"rollouts cut at {CAP:,} tokens")
print(
    finish(
        figure,
        f"Lengths have a heavy tail: p99 is {TAIL:.0f} times the median; the median goes "
        f"from {QUANTILE['median'][0]:.0f} to {QUANTILE['median'][-1]:.0f} tokens",
        "left: quantiles of an RL step's response lengths; right: share that was cut, and so is censored",
        RECORDED,
    )
)

# %% [markdown]
# ## What a drafter gets from the same problem's past
#
# The suffix drafter replays every rollout with its own output, and the rollouts of the steps before: of the same problem,
# or, as the negative control, of another. For the control every RL step's prompts change names in a circle, by one place
# a step: a problem's history is then as large as before, from the same policies, but never its own.


# %%
def exchanged(trace):
    """The trace with prompts that change names from step to step, so that no history is the prompt's own."""
    names = np.array(trace.prompt_ids)
    taken = names[(trace.prompt + trace.step) % len(names)]
    at = trace.table.column_names.index("prompt_id")
    return from_table(trace.table.set_column(at, "prompt_id", pa.array(taken)), f"{trace.source}, prompts exchanged")


WINDOW = 4
BUDGETS = {"at most 4 drafts": 4, "unlimited": 255}
DRAFTED = {
    "own output + same problem": (TRACE, Suffix(window=WINDOW), BLUE),
    "own output + another problem (control)": (exchanged(TRACE), Suffix(window=WINDOW), ORANGE),
    "own output alone": (TRACE, Suffix(scope="request"), GREY),
}
ACCEPTED = {
    (name, label): np.array(
        [row["mean_acceptance_length"] for row in acceptance_by_step(trace, drafter, budget, list(map(int, STEPS[1:])))]
    )
    for name, (trace, drafter, _) in DRAFTED.items()
    for label, budget in BUDGETS.items()
}
GAIN = {
    label: [
        float((ACCEPTED[name, label] - ACCEPTED["own output alone", label])[-QUARTER:].mean())
        for name in list(DRAFTED)[:2]
    ]
    for label in BUDGETS
}

figure, both = over_steps(2)
for one, label in zip(both, BUDGETS, strict=True):
    for name, (_, _, colour) in DRAFTED.items():
        one.plot(STEPS[1:], ACCEPTED[name, label], color=colour, marker="o", ms=4, label=name)
    one.set_title(label, loc="left", fontsize=10)
    one.set_ylabel("mean acceptance length\n(tokens per decode step; 1 without drafts)")
    one.set_ylim(bottom=1)
both[1].legend(frameon=False, loc="center right")
own, other = GAIN["unlimited"]
print(
    finish(
        figure,
        f"The problem's own past adds {own:.2f} tokens per decode step, another problem's {other:.2f}",
        f"gains over own output alone, unlimited drafts, mean of the last {QUARTER} RL steps",
        f"suffix drafter, longest match, history of {WINDOW} RL steps; RL step 0 has no history and is left out",
        RECORDED,
    )
)

# %% [markdown]
# ## How far an update moves the policy
#
# Log-probabilities were recorded twice: under the policy that sampled, and under the one after the step's update, from
# which the next step samples.

# %%
OLD, NEW = (pc.list_flatten(TRACE.table.column(name)).to_numpy() for name in ("logprobs", "next_logprobs"))
STEP_OF = np.repeat(np.searchsorted(STEPS, TRACE.step), TRACE.output_tokens)
TOKENS = np.bincount(STEP_OF)
CLIP = ORIGIN["settings"]["clip"]
ENTROPY = -np.bincount(STEP_OF, OLD) / TOKENS
OUTSIDE = np.bincount(STEP_OF, np.abs(np.expm1(NEW - OLD)) > CLIP) / TOKENS

figure, (left, right) = over_steps(2)
left.plot(STEPS, ENTROPY, color=BLUE, marker="o")
left.set_ylabel("entropy of a token (nats)")
left.set_ylim(0, 1.15 * ENTROPY.max())
right.plot(STEPS, OUTSIDE, color=GREEN, marker="o")
right.set_ylabel(f"tokens whose probability\nchanged by more than {CLIP:.0%}")
right.yaxis.set_major_formatter("{x:.1%}")
right.set_ylim(0, 1.15 * OUTSIDE.max())
print(
    finish(
        figure,
        f"An update changes the probability of {OUTSIDE.mean():.1%} of the step's tokens by more than {CLIP:.0%}",
        "left: mean of -logprobs; right: how often exp(next_logprobs - logprobs) lies outside the clip of GRPO's ratio",
        RECORDED,
    )
)

# %% [markdown]
# ## Where the time went

# %%
PHASES = {"rollout_s": "rollouts", "update_s": "update", "logprob_s": "log-probabilities under the next policy"}
SECONDS = {name: np.array([phase[name] for phase in ORIGIN["phases"]]) for name in PHASES}
TOTAL = sum(SECONDS.values())

figure, axes = over_steps()
below = np.zeros(len(STEPS))
for (name, label), colour in zip(PHASES.items(), (BLUE, ORANGE, GREEN), strict=True):
    axes.bar(STEPS, SECONDS[name], bottom=below, color=colour, label=label)
    below = below + SECONDS[name]
axes.set_ylabel("wall time of the RL step (s)")
axes.set_ylim(top=1.25 * TOTAL.max())
axes.legend(frameon=False, ncols=3, loc="upper center")
share = SECONDS["rollout_s"].sum() / TOTAL.sum()
print(
    finish(
        figure,
        f"Rollouts took {share:.0%} of the RL steps' {TOTAL.sum() / 60:.1f} minutes",
        f"after {ORIGIN['sft_s'] / 60:.1f} minutes of supervised learning",
        f"measured on {ORIGIN['hardware']}, {ORIGIN['settings']['threads']} threads, torch {ORIGIN['versions']['torch']}",
        RECORDED,
    )
)
