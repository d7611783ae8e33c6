# %% [markdown]
"""
# Calibrating a GPU

**Makespans to within what the machine itself differs by, mostly, and a choice of policy that costs a few per cent at most
where it is not the best one.**

- Whole steps that were left out are predicted to 5.3% in the median; attention takes most of a step
- Makespans are off by 4.9% in the median and 15.5% at most; 18 of 20 lie in their range
- The policy simulated fastest is the fastest in 2 of 4 cases; regret at most 3.9%
- At 16 sequences verifying 8 drafts each makes a step 4.1 times as long on the CPU and 1.35 times on the H100

What a decode step takes is measured operator by operator, put together into a profile, and then held to a clock: a real
decoder decodes recorded rollouts under five budget policies, and the simulator must say how long that takes. What is shown
here was measured on a CPU and is shipped, so that nothing needs a GPU to be read. On yours it is one command, which goes on
where it was killed (how each part is measured: docs/calibration.md):

    rolloutsim calibrate campaign traces/data/countdown.parquet --step 20 --model qwen3-8b --device cuda --out mine/
"""

# %%
from importlib.resources import files
from pathlib import Path

import numpy as np

import traces
from calibration.truth.compare import compare, verdicts
from calibration.truth.ground_truth import read as read_truth
from simulator.catalogue import estimate
from simulator.cost import StepWork, load_profile
from simulator.report.drawing import COLOURS
from simulator.report.finding import finish, panels
from traces.io import read

CPU = load_profile("epyc-dense-4-layers")
H100 = load_profile("h100-llama-3.1-8b-published")
TRUTH = [
    read_truth(path) for path in sorted(files("calibration.ground_truth").iterdir()) if path.name.endswith(".parquet")
]
TRACE = read(Path(traces.__file__).parent / "data" / "countdown.parquet")
MEASURED = f"a dense model of 4 layers, {CPU.device}; rollouts of traces/data/countdown.parquet, RL step 20"

# %% [markdown]
# ## What is measured
#
# Each operator of the model alone, over the number of tokens, or over sequences, context and query tokens; then whole steps at
# random, half of which tell what a step takes beyond its operators. The other half were left out: they say how far off the
# profile is.

# %%
LIVE, CONTEXT = np.array([1, 2, 4, 8, 16, 32, 64]), 512
WORK = StepWork.decode(LIVE, np.full(LIVE.size, CONTEXT))
PARTS = {name: seconds for name, seconds in CPU.operator_times(WORK).items() if seconds.max() > 0}
LARGEST = sorted(PARTS, key=lambda name: PARTS[name][-1], reverse=True)[:6]
HELD_OUT = CPU.held_out

figure, (left, right) = panels(11.5, 4.9, 2, top=1.0, between=0.65)
below = np.zeros(LIVE.size)
for name, colour in zip([*LARGEST, "all others"], (*COLOURS[1:], COLOURS[0]), strict=True):
    seconds = PARTS[name] if name in PARTS else sum(PARTS[one] for one in PARTS if one not in LARGEST)
    left.bar(np.arange(LIVE.size), 1e3 * seconds, bottom=below, color=colour, label=name)
    below = below + 1e3 * seconds
left.set_xticks(np.arange(LIVE.size), LIVE)
left.set_xlabel(f"sequences, context {CONTEXT} tokens, no drafts")
left.set_ylabel("a decode step (ms)")
left.legend(frameon=False, fontsize=9)
names = sorted(HELD_OUT, key=lambda name: HELD_OUT[name]["median"])
right.barh(names, [HELD_OUT[name]["p95"] for name in names], color=COLOURS[5], label="95th percentile")
right.barh(names, [HELD_OUT[name]["median"] for name in names], color=COLOURS[1], label="median")
right.xaxis.set_major_formatter("{x:.0%}")
right.set_xlabel("error of points left out")
right.legend(frameon=False)
finding = f"Whole steps that were left out are predicted to {CPU.relative_error:.1%} in the median; "
finding += f"{LARGEST[0]} takes most of a step"
explained = "left: what a step is made of; right: how far off operators are between measured points"
print(finish(figure, finding, explained, MEASURED))

# %% [markdown]
# ## Held to the clock
#
# Both sides do the same work in every single step (that is checked first): what differs is time. Repeats of a run differ, too:
# no prediction can be better than that.

# %%
FOUND = [one for truth in TRUTH for one in compare(truth, TRACE, CPU)]
FOUND.sort(key=lambda one: one.live_batch)
ERRORS = np.array([one.error for one in FOUND])
INSIDE = sum(one.low_s <= one.measured_s <= one.high_s for one in FOUND)

figure, axes = panels(9.2, 7.2, left=1.9, top=1.1)
for at, one in enumerate(FOUND):
    axes.plot(
        [one.low_s / one.measured_s - 1, one.high_s / one.measured_s - 1], [at, at], color=COLOURS[5], lw=6, alpha=0.5
    )
    axes.plot(one.error, at, "o", color=COLOURS[1])
    axes.plot([-one.spread / 2, one.spread / 2], [at, at], color="black", lw=1.5)
axes.axvline(0, color="black", lw=0.8)
axes.set_yticks(range(len(FOUND)), [f"{one.policy}, {one.live_batch} at once" for one in FOUND])
axes.invert_yaxis()
axes.xaxis.set_major_formatter("{x:+.0%}")
axes.set_xlabel("simulated over measured makespan, less 1")
axes.grid(axis="x", alpha=0.3)
finding = f"Makespans are off by {np.median(np.abs(ERRORS)):.1%} in the median and {np.abs(ERRORS).max():.1%} at most; "
finding += f"{INSIDE} of {len(FOUND)} lie in their range"
explained = "dots: error; pale bars: where nine of ten should lie; black: how far repeats of the measured run differ"
print(finish(figure, finding, explained, MEASURED))

# %% [markdown]
# ## Does it choose the right policy?
#
# That is what a profile is for. At each number of slots five policies decoded the same rollouts: regret is how much longer the
# policy takes that is simulated to be fastest than the one that was.

# %%
JUDGED = [verdicts(compare(truth, TRACE, CPU))[0] for truth in TRUTH]
JUDGED.sort(key=lambda one: one.live_batch)

figure, both = panels(11.5, 4.6, len(JUDGED), left=0.9, top=1.1)
for axes, verdict in zip(both, JUDGED, strict=True):
    some = [one for one in FOUND if one.live_batch == verdict.live_batch]
    place = np.arange(len(some))
    axes.bar(place - 0.2, [one.measured_s for one in some], 0.38, color=COLOURS[0], label="measured")
    axes.bar(place + 0.2, [one.simulated_s for one in some], 0.38, color=COLOURS[1], label="simulated")
    axes.set_xticks(place, [one.policy for one in some], rotation=60, ha="right", fontsize=8)
    axes.set_title(f"{verdict.live_batch} slots\nchosen {verdict.chosen}", loc="left", fontsize=9)
both[0].set_ylabel("makespan (s)")
both[0].legend(frameon=False, fontsize=8)
right_choices = sum(one.regret == 0 for one in JUDGED)
finding = f"The policy simulated fastest is the fastest in {right_choices} of {len(JUDGED)} cases; "
finding += f"regret at most {max(one.regret for one in JUDGED):.1%}"
print(finish(figure, finding, "makespans of five policies by number of slots", MEASURED))

# %% [markdown]
# ## What a profile says of drafts before anything is run
#
# How much longer a step takes that verifies 8 drafts for each sequence. It is what decides the budget, and it differs between
# devices more than anything else: that is why to calibrate yours.

# %%
DRAFTS = 8
DEVICES = {
    f"{CPU.name} (measured)": (CPU, 64), f"{H100.name} (published fit)": (H100, 256),
    "llama-3.1-8b on h100 (estimate)": (estimate("llama-3.1-8b", "h100"), 256),
}  # fmt: skip
figure, axes = panels(9.2, 4.9, top=1.1)
PRICE = {}
for (name, (profile, most)), colour in zip(DEVICES.items(), COLOURS[1:], strict=False):
    live = np.array([n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n <= most])
    plain, wide = (
        profile.step_time_s(StepWork.decode(live, np.full(live.size, 512), width)) for width in (1, 1 + DRAFTS)
    )
    PRICE[name] = dict(zip(live.tolist(), (wide / plain).tolist(), strict=True))
    axes.plot(live, wide / plain, marker="o", color=colour, label=name)
axes.set_xscale("log", base=2)
axes.set_xticks([1, 4, 16, 64, 256], [1, 4, 16, 64, 256])
axes.set_ylim(bottom=1)
axes.set_xlabel("live sequences (log scale)")
axes.set_ylabel(f"step with {DRAFTS} drafts each / step without")
axes.legend(frameon=False)
axes.grid(alpha=0.3)
cpu, gpu = (PRICE[name][16] for name in list(DEVICES)[:2])
finding = f"At 16 sequences verifying {DRAFTS} drafts each makes a step {cpu:.1f} times as long on the CPU "
finding += f"and {gpu:.2f} times on the H100"
explained = "drafts are nearly free where a step waits for memory"
print(finish(figure, finding, explained, "context 512 tokens; the time to draft is not in it"))
