# %% [markdown]
"""
# Which budget, which drafter, which policy

One RL step is replayed again and again: under constant budgets, with other histories, under every built-in policy.

- **Trace**: the one named by `ROLLOUTSIM_TRACE`, else `rollouts/llama3b_rl_math.parquet` in `ROLLOUTSIM_DATA` (default
  `../shared`), else the demo trace, which is made up. The last RL step is simulated; those before it are the history.
- As a script, `python notebooks/budget_policies.py --out DIR` also saves the figures.

Seconds are the cost profile's, and rest on extrapolation as far as the footnotes say. Trust the orderings.
"""

# %%
import argparse
import json
import os
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import traces
from simulator.drafting.alone import acceptance_by_step
from simulator.replay import run
from simulator.scenario import build, drafter_settings
from traces.io import read

QUICK = globals().get("QUICK", False)  # small grids, to see in seconds that everything runs
ARGUMENTS = argparse.ArgumentParser(allow_abbrev=False)
ARGUMENTS.add_argument("--out", type=Path, help="folder for the figures")
OUT = ARGUMENTS.parse_known_args()[0].out

PACKAGE = Path(traces.__file__).parent
DATA = Path(os.environ.get("ROLLOUTSIM_DATA", PACKAGE.parents[1] / "shared"))
FOUND = [DATA / "rollouts" / "llama3b_rl_math.parquet", PACKAGE / "data" / "demo.parquet"]
PATH = Path(os.environ.get("ROLLOUTSIM_TRACE") or next(path for path in FOUND if path.exists()))
PROFILE = "h100-llama-3.1-8b-published"
SLOTS = [4, 32, 256] if QUICK else [4, 8, 16, 32, 64, 128, 256]

TRACE = read(str(PATH))
STEP = TRACE.steps[-1]
EARLIER = len(TRACE.steps) - 1


def replay(policies, slots, **more):
    """Simulate the RL step under these policies with so many slots."""
    engine = {"max_num_seqs": slots}
    fixed = {"trace": str(PATH), "profile": PROFILE, "steps": [STEP], "engine": engine}
    return run(build({**fixed, "policies": policies, **more}), TRACE)


# %% [markdown]
# What the figures share: a footnote that says what they rest on, and a map of makespans.

# %%
plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False})
BLUE, GREY = "#0072b2", "#666666"
ROLLOUTS = int((TRACE.step == STEP).sum())
MADE_UP = " (made up)" if PATH.samefile(FOUND[1]) else ""
REPLAYED = f"trace {PATH.stem}{MADE_UP}, RL step {STEP}: {ROLLOUTS:,} rollouts; earlier RL steps known: {EARLIER}"


def finish(figure, name, title, explained, *notes):
    """Put the finding above and what it rests on below; save where --out says."""
    width, height = figure.get_size_inches()
    left = 0.15 / width
    figure.text(left, 1 - 0.15 / height, title, fontsize=13, va="top")
    figure.text(left, 1 - 0.46 / height, explained, color=GREY, va="top", linespacing=1.4)
    figure.text(left, 0.1 / height, "\n".join([REPLAYED, *notes]), fontsize=8, color=GREY, va="bottom", linespacing=1.4)
    if OUT:
        OUT.mkdir(parents=True, exist_ok=True)
        figure.savefig(OUT / f"{name}.png", dpi=150)


def panels(width, height, left, top, bottom, **more):
    """Make axes with these margins in inches."""
    margins = {"left": left / width, "right": 1 - 0.3 / width, "top": 1 - top / height, "bottom": bottom / height}
    return plt.subplots(figsize=(width, height), gridspec_kw=margins, **more)


def draw_map(axes, speedup, words, columns, rows, best):
    """Colour cells by speed-up, blue where faster and red where slower, write `words` into them and frame the best."""
    shade = np.log2(speedup)
    reach = max(float(np.abs(shade).max()), 0.1)
    axes.pcolormesh(shade, cmap="RdBu", vmin=-1.15 * reach, vmax=1.15 * reach, edgecolor="white", lw=1.5)
    for (row, column), word in np.ndenumerate(words):
        colour = "white" if abs(shade[row, column]) > 0.6 * reach else "black"
        axes.text(column + 0.5, row + 0.5, word, ha="center", va="center", color=colour, fontsize=9)
    for row, column in best:
        axes.add_patch(plt.Rectangle((column, row), 1, 1, fill=False, ec="black", lw=2.5, zorder=3, clip_on=False))
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def outside(found):
    """Say how much of the time lies outside what the profile was measured for, by slots."""
    share = [max(result.runs["extrapolated_fraction"].to_pylist()) for result in found.values()]
    told = ", ".join(f"{slots}: {one:.0%}" for slots, one in zip(found, share, strict=True))
    return f"profile {PROFILE}; decoding time outside its valid range, at most, by slots:\n{told}"


def spans_of(winner):
    """Join neighbours with the same value: {4: "a", 16: "a", 32: "b"} becomes ["a with 4 to 16", "b with 32"]."""
    keys, values = list(winner), list(winner.values())
    cuts = [0, *(i for i in range(1, len(keys)) if values[i] != values[i - 1]), len(keys)]
    return [f"{values[a]} with {keys[a]}" + (f" to {keys[b - 1]}" if b - a > 1 else "") for a, b in pairwise(cuts)]


# %% [markdown]
# ## Which budget for which live batch
#
# A constant budget for every sequence in every decode step, with the suffix drafter over the same problem's history.
# Few live sequences leave the device waiting for memory, and drafts are nearly free; many fill it, and drafts that
# fail take time from everybody.

# %%
BUDGETS = [0, 1, 4, 16] if QUICK else [0, 1, 2, 3, 4, 6, 8, 12, 16]
constant = {slots: replay([f"fixed:{budget}" for budget in BUDGETS], slots) for slots in SLOTS}
SPEEDUP = np.array([result.runs["speedup"].to_pylist() for result in constant.values()])
BEST_BUDGET = {slots: BUDGETS[column] for slots, column in zip(SLOTS, SPEEDUP.argmax(axis=1), strict=True)}

figure, axes = panels(9.2, 2.4 + 0.42 * len(SLOTS), 1.7, 0.85, 1.35)
LIVE = [result.runs["mean_live_batch"][0].as_py() for result in constant.values()]
words = np.array([[f"{one:.2f}×" for one in row] for row in SPEEDUP])
rows = [f"{slots}  ({live:.0f} live)" for slots, live in zip(SLOTS, LIVE, strict=True)]
draw_map(axes, SPEEDUP, words, BUDGETS, rows, enumerate(SPEEDUP.argmax(axis=1)))
axes.set_xlabel("constant budget (draft tokens per sequence and decode step, at most)")
axes.set_ylabel("slots, max_num_seqs\n(mean live sequences at budget 0)")
few, many = BEST_BUDGET[SLOTS[0]], BEST_BUDGET[SLOTS[-1]]
finding = f"A fuller batch wants {'fewer' if few > many else 'no fewer'} drafts: "
finding += f"the best budget is {few} with {SLOTS[0]} slots, {many} with {SLOTS[-1]}"
edge = f"; {BUDGETS[-1]} is the largest tried" if BUDGETS[-1] in (few, many) else ""
explained = f"speed-up over no speculation: blue faster, red slower, framed: best budget of the row{edge}"
finish(
    figure, "constant_budget", finding, explained, outside(constant),
    f"drafter {constant[SLOTS[0]].runs['drafter'][0].as_py()}",
)  # fmt: skip

# %% [markdown]
# ## What the drafter must remember
#
# The drafter alone, without any cost: which past responses it searches, whether it also searches the rollout's own
# prompt and output, and how many RL steps it looks back.

# %%
BUDGET = 8
WINDOWS = sorted({min(window, EARLIER) for window in (1, 2, 4, 8, 16)}) if EARLIER else [1]
SCOPES = {
    "same problem + own output": {"scope": "problem"},
    "same problem": {"scope": "problem", "own": False},
    "all problems + own output": {"scope": "global"},
    "all problems": {"scope": "global", "own": False},
    "own output only, no history": {"scope": "request"},
}
ACCEPTANCE = {}
for name, settings in SCOPES.items():
    for window in WINDOWS[-1:] if settings["scope"] == "request" else WINDOWS:
        drafter = drafter_settings({"kind": "suffix", "window": window, **settings}).drafter()
        ACCEPTANCE[name, window] = acceptance_by_step(TRACE, drafter, BUDGET, [STEP])[0]

several = len(WINDOWS) > 1
figure, (left, right) = panels(11.5, 4.4 + several, 2.2, 0.8 + 0.35 * several, 1.0, ncols=2, sharey=True)
shades = plt.get_cmap("Blues")(np.linspace(0.4, 0.9, len(WINDOWS)))
height = 0.8 / len(WINDOWS)
for row, name in enumerate(SCOPES):
    kept = [window for window in WINDOWS if (name, window) in ACCEPTANCE]
    for rank, window in enumerate(kept):
        colour = shades[WINDOWS.index(window)] if "no history" not in name else "#999999"
        at = row + (rank - (len(kept) - 1) / 2) * height
        counts = ACCEPTANCE[name, window]
        length, rate = counts["mean_acceptance_length"], counts["draft_acceptance_rate"] or 0.0
        for axes, value, told in (left, length, f"{length:.2f}"), (right, rate, f"{rate:.0%}"):
            axes.barh(at, value, 0.9 * height, color=colour)
            axes.annotate(told, (value, at), (4, 0), textcoords="offset points", va="center", fontsize=9)
left.set_yticks(range(len(SCOPES)), SCOPES)
left.invert_yaxis()
for axes in (left, right):
    axes.tick_params(axis="y", length=0)
left.axvline(1, color="black", lw=0.8, ls=":")
left.set_xlabel("mean acceptance length (tokens per decode step; 1 without drafts)")
right.set_xlabel("draft acceptance rate (accepted / drafted)")
right.xaxis.set_major_formatter("{x:.0%}")
right.set_xlim(0, 1)
if several:
    bars = [plt.Rectangle((0, 0), 1, 1, color=shade) for shade in shades]
    told = [f"{window} RL step{'s' if window > 1 else ''}" for window in WINDOWS]
    figure.legend(bars, told, loc="upper left", bbox_to_anchor=(0.0, 1 - 0.7 / figure.get_figheight()), ncols=len(bars),
                  frameon=False, fontsize=9, handlelength=1)  # fmt: skip
LENGTH = {name: ACCEPTANCE[name, WINDOWS[-1]]["mean_acceptance_length"] for name in SCOPES}
most = max(LENGTH, key=LENGTH.get)
finish(
    figure,
    "acceptance",
    f"“{most}” gets most accepted: {LENGTH[most]:.2f} tokens per decode step, against "
    f"{LENGTH['own output only, no history']:.2f} without history",
    "what the drafter searches" + (", and how many RL steps it looks back" if several else ""),
    f"suffix drafter, longest match, constant budget {BUDGET}; no cost profile involved"
    + ("; with one earlier RL step recorded, all windows are alike" if EARLIER == 1 else ""),
)

# %% [markdown]
# ## Where each policy wins
#
# Every policy on the same rollouts, with the same drafts on offer. DAS fixes a budget for each length class when the RL
# step begins; goodput, AIMD, Seer and the bandit watch what is accepted meanwhile. A per cent is no finding: for that,
# see the intervals below.

# %%
POLICIES = ["none", "fixed:2", "fixed:8", "unlimited", "threshold:8@32", "classes", "das", "buckets", "bandit",
            "goodput", "aimd", "seer"]  # fmt: skip
played = {slots: replay(POLICIES, slots) for slots in SLOTS}
MAKESPAN_S = np.array([result.runs["makespan_s"].to_pylist() for result in played.values()]).T
WINNER = {slots: POLICIES[row] for slots, row in zip(SLOTS, MAKESPAN_S.argmin(axis=0), strict=True)}
words = np.array([[f"{one:,.0f} s" if one >= 100 else f"{one:.1f} s" for one in row] for row in MAKESPAN_S], object)
DAS = POLICIES.index("das")
DAS_BUDGETS = {}
for column, (slots, result) in enumerate(played.items()):
    facts = json.loads(result.runs["facts"][DAS].as_py())[str(STEP)]
    DAS_BUDGETS[slots] = tuple(facts[f"budget_{name}"] for name in ("short", "medium", "long"))
    words[DAS, column] += "\n" + "/".join(map(str, DAS_BUDGETS[slots]))

figure, axes = panels(1.6 + 1.05 * max(len(SLOTS), 7), 2.6 + 0.42 * len(POLICIES), 1.3, 1.05, 1.15)
best = [(row, column) for column, row in enumerate(MAKESPAN_S.argmin(axis=0))]
draw_map(axes, MAKESPAN_S[:1] / MAKESPAN_S, words, SLOTS, POLICIES, best)
axes.set_xlabel("slots, max_num_seqs")
spans = spans_of(WINNER)
finding = ("No policy wins everywhere: " if len(spans) > 1 else "One policy wins everywhere: ") + spans[0]
finding += (" slots, … " if len(spans) > 2 else " slots, ") + spans[-1] if len(spans) > 1 else " slots"
loss = MAKESPAN_S[DAS] / MAKESPAN_S.min(axis=0) - 1
explained = (
    "makespan: blue faster, red slower than no speculation (none), framed: best of the column\n"
    f"below das: its budgets for short/medium/long; it takes {loss.min():.0%} to {loss.max():.0%} longer than the best"
)
finish(figure, "policies", finding, explained, outside(played))

# %% [markdown]
# ## Regret
#
# "Good" on a scale: 0 is no speculation, 100 % a bound that no policy can beat, whatever it knows. The oracle knows every
# length and every accepted draft beforehand; between it and the bound nobody knows what is possible. The intervals are
# those of the speed-up over `none`, from resampling prompts with all their rollouts, put on the scale of the recorded gap.

# %%
COMPARED = [64, 256]
JUDGED = ["none", "fixed:2", "fixed:8", "unlimited", "das", "goodput", "aimd", "seer"]
COMPARE = {"bootstrap": 10 if QUICK else 100}
judged = {slots: replay(JUDGED, slots, compare=COMPARE) for slots in COMPARED}
REGRET = {slots: result.comparison.table.to_pylist() for slots, result in judged.items()}
CLOSED = {}
for slots, rows in REGRET.items():
    gap = 1 - rows[0]["bound_s"] / rows[0]["none_s"]
    for row in rows:
        ends = [min((1 - 1 / max(row[end], 1e-9)) / gap, 1) for end in ("low", "high")]
        CLOSED[row["policy"], slots] = (row["closed"], *ends)
    oracle = (1 - rows[0]["oracle_s"] / rows[0]["none_s"]) / gap
    CLOSED["oracle", slots] = (oracle, oracle, oracle)

NAMES = [*JUDGED[1:], "oracle"]
figure, two = panels(11.0, 2.6 + 0.4 * len(NAMES), 1.2, 1.1, 1.35, ncols=len(COMPARED), sharex=True, sharey=True)
for axes, (slots, rows) in zip(two, REGRET.items(), strict=True):
    for at, name in enumerate(NAMES):
        share, low, high = CLOSED[name, slots]
        axes.plot([low, high], [at, at], color=BLUE, lw=2)
        last = name == "oracle"
        axes.plot(share, at, "D" if last else "o", color=GREY if last else BLUE, ms=8)
        beside = {"xytext": (-9, 0) if last else (0, 11), "ha": "right" if last else "center", "va": "center_baseline"}
        axes.annotate(f"{share:.0%}", (share, at), textcoords="offset points", fontsize=9, **beside)
    axes.vlines([0, 1], -0.7, len(NAMES) - 0.5, color="black", lw=1, zorder=0)
    ends = f"none {rows[0]['none_s']:.1f} s, bound {rows[0]['bound_s']:.1f} s"
    axes.set_title(f"{slots} slots: {ends}", loc="left", fontsize=10)
    axes.set_yticks(range(len(NAMES)), NAMES)
    axes.set_ylim(len(NAMES) - 0.5, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", alpha=0.3)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("share of the gap from none to the bound that is closed")
told = []
for slots in COMPARED:
    share, name = max((CLOSED[policy, slots][0], policy) for policy in JUDGED)
    das = "" if name == "das" else f" (das {CLOSED['das', slots][0]:.0%})"
    told.append(f"{name} {share:.0%}{das} with {slots} slots")
explained = (
    "dots: the RL step as recorded; lines: 95 % intervals over prompts, cut at the bound, which no policy can beat"
)
note = (
    "intervals are paired: policies whose intervals overlap may still differ; the oracle knows lengths and acceptance"
)
finish(figure, "regret", "Closest to the bound: " + ", ".join(told), explained, outside(judged), note)
