# %% [markdown]
"""
# Which budget on my trace

**With few slots draft as much as you can, in a full batch a few tokens; and what the drafter remembers counts for more than
which policy sets the budget.**

- The best constant budget is 32 with 4 slots and 4 with 256: a fuller batch wants fewer drafts
- History counts: 5.44 tokens a decode step with 16 RL steps of the same problem, 3.69 with 1, 1.84 without
- Fastest with 4 slots is unlimited, with 256 fixed:4; das takes 14% to 38% longer than the best
- With 64 slots fixed:8 closes 91% of the gap to the bound, das 81%; das makes the makespan 2.4 times as fast, a typical
  rollout 1.5

One RL step is replayed again and again: under constant budgets, with other histories, under every kind of policy.

- **Trace**: the one named by `ROLLOUTSIM_TRACE`, else the recording of a small RL run that is shipped. Its last RL step is
  simulated; those before it are the history. What it says holds for rollouts that repeat as much as those do: put in your
  own.
- Seconds are those of the cost profile, an H100 with Llama-3.1-8B. Trust the orders more than the seconds.
"""

# %%
import json
import os
from pathlib import Path

import numpy as np

import traces
from simulator.drafting.alone import acceptance_by_step
from simulator.replay import run
from simulator.report.drawing import COLOURS
from simulator.report.finding import draw_map, finish, panels
from simulator.scenario import build, drafter_settings
from traces.io import read

SHIPPED = Path(traces.__file__).parent / "data" / "countdown.parquet"
PATH = Path(os.environ.get("ROLLOUTSIM_TRACE") or SHIPPED)
PROFILE = "h100-llama-3.1-8b-published"
SLOTS = [4, 16, 64, 256]

TRACE = read(str(PATH))
STEP, EARLIER = TRACE.steps[-1], len(TRACE.steps) - 1
REPLAYED = (
    f"trace {PATH.stem}, RL step {STEP}: {(TRACE.step == STEP).sum():,} rollouts; earlier RL steps known: {EARLIER}"
)


def replay(policies, slots, **more):
    """Simulate the RL step under these policies with so many slots."""
    scenario = {"trace": str(PATH), "profile": PROFILE, "steps": [STEP], "engine": {"max_num_seqs": slots}, **more}
    return run(build({**scenario, "policies": policies}), TRACE)


def outside(found):
    """Say how much of the time lies outside what the profile was measured for, by slots."""
    share = [max(result.runs["extrapolated_fraction"].to_pylist()) for result in found.values()]
    told = ", ".join(f"{slots}: {one:.0%}" for slots, one in zip(found, share, strict=True))
    return f"profile {PROFILE}; decoding time outside its valid range, at most, by slots: {told}"


# %% [markdown]
# ## Which budget for which live batch
#
# The same budget for every sequence in every decode step, with the suffix drafter over the same problem's history. Few live
# sequences leave the device waiting for memory, and drafts are nearly free; many fill it, and drafts that fail take time from
# everybody.

# %%
BUDGETS = [0, 1, 2, 4, 8, 16, 32]
constant = {slots: replay([f"fixed:{budget}" for budget in BUDGETS], slots) for slots in SLOTS}
SPEEDUP = np.array([result.runs["speedup"].to_pylist() for result in constant.values()])
BEST_BUDGET = {slots: BUDGETS[at] for slots, at in zip(SLOTS, SPEEDUP.argmax(axis=1), strict=True)}

few, many = BEST_BUDGET[SLOTS[0]], BEST_BUDGET[SLOTS[-1]]
live = [result.runs["mean_live_batch"][0].as_py() for result in constant.values()]
figure, axes = panels(9.2, 4.2, left=1.9, top=0.85)
words = np.array([[f"{one:.2f}×" for one in row] for row in SPEEDUP])
rows = [f"{slots}  ({mean:.0f} live)" for slots, mean in zip(SLOTS, live, strict=True)]
draw_map(axes, SPEEDUP, words, BUDGETS, rows, enumerate(SPEEDUP.argmax(axis=1)))
axes.set_xlabel("budget: draft tokens per sequence and decode step, at most")
axes.set_ylabel("slots, max_num_seqs\n(mean live sequences)")
finding = f"The best constant budget is {few} with {SLOTS[0]} slots and {many} with {SLOTS[-1]}: "
finding += "a fuller batch wants fewer drafts" if few > many else "here a fuller batch wants no fewer drafts"
print(finish(figure, finding, "speed-up over no speculation; framed: the best of the row", REPLAYED, outside(constant)))

# %% [markdown]
# ## What the drafter must remember
#
# The drafter alone, without any cost: which past responses it searches, whether it also searches the rollout's own prompt and
# output, and how many RL steps it looks back.

# %%
BUDGET = 8
WINDOWS = sorted({min(window, EARLIER) for window in (1, 4, 16)})
SCOPES = {
    "same problem + own output": {"scope": "problem"},
    "same problem": {"scope": "problem", "own": False},
    "all problems + own output": {"scope": "global"},
    "own output only, no history": {"scope": "request"},
}
LENGTH = {}
for name, settings in SCOPES.items():
    for window in WINDOWS[-1:] if settings["scope"] == "request" else WINDOWS:
        drafter = drafter_settings({"kind": "suffix", "window": window, **settings}).drafter()
        LENGTH[name, window] = acceptance_by_step(TRACE, drafter, BUDGET, [STEP])[0]["mean_acceptance_length"]

figure, axes = panels(9.2, 4.6, left=2.2, top=1.0)
for row, name in enumerate(SCOPES):
    kept = [window for window in WINDOWS if (name, window) in LENGTH]
    for rank, window in enumerate(kept):
        at = row + (rank - (len(kept) - 1) / 2) * 0.26
        axes.barh(at, LENGTH[name, window], 0.23, color=COLOURS[1 + WINDOWS.index(window)])
        told = f"{LENGTH[name, window]:.2f}" + ("" if len(kept) == 1 else f"  looking back {window}")
        axes.annotate(told, (LENGTH[name, window], at), (4, 0), textcoords="offset points", va="center", fontsize=9)
axes.set_yticks(range(len(SCOPES)), SCOPES)
axes.invert_yaxis()
axes.axvline(1, color="black", lw=0.8, ls=":")
axes.margins(x=0.25)
axes.set_xlabel("mean acceptance length (tokens per decode step; 1 without drafts)")
first, last = (LENGTH["same problem + own output", WINDOWS[at]] for at in (0, -1))
alone = LENGTH["own output only, no history", WINDOWS[-1]]
finding = f"History counts: {last:.2f} tokens a decode step with {WINDOWS[-1]} RL steps of the same problem, "
finding += f"{first:.2f} with {WINDOWS[0]}, {alone:.2f} without"
print(finish(figure, finding, "what the drafter searches, and how many RL steps it looks back", REPLAYED,
             f"suffix drafter, longest match, constant budget {BUDGET}; no cost profile involved"))  # fmt: skip

# %% [markdown]
# ## Where each policy wins
#
# Every policy on the same rollouts, with the same drafts on offer. DAS fixes a budget for each class of lengths when the RL
# step begins; goodput, AIMD, Seer and the bandit watch what is accepted meanwhile. A per cent is no finding: for that, see the
# intervals below.

# %%
POLICIES = ["none", "fixed:4", "fixed:8", "unlimited", "threshold:8@32", "das", "bandit", "goodput", "aimd", "seer"]
played = {slots: replay(POLICIES, slots) for slots in SLOTS}
MAKESPAN_S = np.array([result.runs["makespan_s"].to_pylist() for result in played.values()]).T
WINNER = {slots: POLICIES[row] for slots, row in zip(SLOTS, MAKESPAN_S.argmin(axis=0), strict=True)}
words = np.array([[f"{one:.1f} s" for one in row] for row in MAKESPAN_S], object)
DAS = POLICIES.index("das")
DAS_BUDGETS = {}
for column, (slots, result) in enumerate(played.items()):
    facts = json.loads(result.runs["facts"][DAS].as_py())[str(STEP)]
    DAS_BUDGETS[slots] = tuple(facts[f"budget_{name}"] for name in ("short", "medium", "long"))
    words[DAS, column] += "   " + "/".join(map(str, DAS_BUDGETS[slots]))

figure, axes = panels(9.2, 5.6, left=1.4, top=1.05)
best = [(row, column) for column, row in enumerate(MAKESPAN_S.argmin(axis=0))]
draw_map(axes, MAKESPAN_S[:1] / MAKESPAN_S, words, SLOTS, POLICIES, best)
axes.set_xlabel("slots, max_num_seqs")
loss = MAKESPAN_S[DAS] / MAKESPAN_S.min(axis=0) - 1
finding = f"Fastest with {SLOTS[0]} slots is {WINNER[SLOTS[0]]}, with {SLOTS[-1]} {WINNER[SLOTS[-1]]}; "
finding += f"das takes {loss.min():.0%} to {loss.max():.0%} longer than the best"
explained = "makespan: blue faster, red slower than no speculation, framed: best of the column;\n"
explained += "beside das: its budgets for short/medium/long"
print(finish(figure, finding, explained, REPLAYED, outside(played)))

# %% [markdown]
# ## How much is left
#
# "Good" on a scale: 0 is no speculation, 100 % a bound that no policy can beat, whatever it knows. The intervals are those of
# the speed-up over `none`, from resampling prompts with all their rollouts, put on the scale of the recorded gap.

# %%
COMPARED = 64
JUDGED = ["none", "fixed:4", "fixed:8", "unlimited", "das", "goodput", "seer"]
rows = replay(JUDGED, COMPARED, compare={"bootstrap": 60}).comparison.table.to_pylist()
gap = 1 - rows[0]["bound_s"] / rows[0]["none_s"]
ENDS = {row["policy"]: [min((1 - 1 / max(row[end], 1e-9)) / gap, 1) for end in ("low", "high")] for row in rows}
CLOSED = {row["policy"]: (row["closed"], *ENDS[row["policy"]]) for row in rows}
BY_ROLLOUT = {row["policy"]: (row["speedup"], row["rollout_speedup"]) for row in rows}

figure, (left, right) = panels(11.5, 4.9, 2, left=1.2, top=1.1, sharey=True)
for at, name in enumerate(JUDGED[1:]):
    share, low, high = CLOSED[name]
    left.plot([low, high], [at, at], color=COLOURS[1], lw=2)
    left.plot(share, at, "o", color=COLOURS[1], ms=8)
    left.annotate(
        f"{share:.0%}", (share, at), (0, 10), textcoords="offset points", ha="center", va="center_baseline", fontsize=9
    )
    for value, mark, colour in zip(BY_ROLLOUT[name], "os", (COLOURS[1], COLOURS[2]), strict=True):
        right.plot(value, at, mark, color=colour, ms=8)
left.set_yticks(range(len(JUDGED) - 1), JUDGED[1:])
left.set_ylim(len(JUDGED) - 1.4, -0.7)
left.set_xlim(0, 1)
left.xaxis.set_major_formatter("{x:.0%}")
left.set_xlabel("share closed of the gap from no speculation to the bound")
right.set_xlabel("speed-up: of the makespan (dots), of a typical rollout (squares)")
for axes in (left, right):
    axes.grid(alpha=0.3)
name = max(CLOSED, key=lambda policy: CLOSED[policy][0])
finding = (
    f"With {COMPARED} slots {name} closes {CLOSED[name][0]:.0%} of the gap to the bound, das {CLOSED['das'][0]:.0%}; "
)
finding += (
    f"das makes the makespan {BY_ROLLOUT['das'][0]:.1f} times as fast, a typical rollout {BY_ROLLOUT['das'][1]:.1f}"
)
explained = (
    "left: the RL step as recorded, and 95 % intervals over prompts; right: makespan, and geometric mean over rollouts"
)
ends = f"none {rows[0]['none_s']:.1f} s, bound {rows[0]['bound_s']:.1f} s"
print(finish(figure, finding, explained, REPLAYED, f"profile {PROFILE}; {ends}"))
