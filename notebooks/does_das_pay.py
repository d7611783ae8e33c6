# %% [markdown]
"""
# What decides whether DAS pays

**Repetition decides first, then training's share of an RL step. DAS pays where rollouts repeat and it has seen two RL steps
or more; a constant budget pays as much or more unless the batch is full.**

- With 16 slots DAS is 1.01 times as fast where nothing repeats and 2.41 times where nearly all does (1.04 and 4.39 tokens a
  decode step)
- After one RL step DAS is 1.23 times as fast, after three 2.04 times; the best constant budget 2.02 and 2.12
- From 1 to 256 slots DAS's speed-up goes from 1.93 to 2.07, the best constant budget's from 2.47 to 2.04
- DAS is 0.93 times as fast as the best constant budget where lengths cannot be told, 0.90 times where they can
- Rollouts 2.53 times as fast, 50% of the RL step: the RL step is 1.43 times as fast

DAS (arXiv 2511.13841) drafts from a suffix tree of the same problem's earlier rollouts, and gives drafts to those that are
expected to be long. Here rollouts are made up, so that one thing at a time can be changed: how much of their text repeats,
how heavy the tail of their lengths is, how well a problem's past tells its rollouts' lengths. Then it is put beside
training, which drafts do not shorten.

- On your own rollouts: `rolloutsim replay T --policy none --policy das --policy fixed:4 --compare`, or the notebook beside
  this one, which asks for the budget.
- Seconds are those of the cost profile, an H100 with Llama-3.1-8B, and of suffix drafting measured on one host.
"""

# %%
import numpy as np

from simulator.replay import run
from simulator.report.drawing import COLOURS
from simulator.report.finding import finish, panels
from simulator.scenario import build
from traces.io import from_table
from traces.synthesis import synth

PROFILE = "h100-llama-3.1-8b-published"
CONSTANT = ["fixed:2", "fixed:4", "fixed:8"]
MADE = {
    "prompts": 32,
    "samples": 8,
    "steps": 4,
    "median_tokens": 300,
    "max_tokens": 3000,
    "sibling_reuse": 0.0,
    "seed": 1,
}
SLOTS = [16, 256]
RESTS = "made-up rollouts: 32 prompts × 8, median 300 tokens, at most 3,000; the three RL steps before are the history"


def played(slots, policies=("none", *CONSTANT, "unlimited", "das"), costs=None, **changed):
    """Simulate RL step 3 of a made-up trace under some policies."""
    trace = from_table(synth(**{**MADE, "history_reuse": 0.75, **changed}), "made up")
    scenario = {"trace": "made up", "steps": [3], "policies": list(policies), "engine": {"max_num_seqs": slots}}
    return run(build(scenario | (costs or {"profile": PROFILE})), trace)


def speedups(slots, **changed):
    """Speed-up over no speculation of DAS, of the best constant budget and of unlimited drafts, and tokens a decode step."""
    rows = {row["policy"]: row for row in played(slots, **changed).runs.to_pylist()}
    constant = max(rows[name]["speedup"] for name in CONSTANT)
    return rows["das"]["speedup"], constant, rows["unlimited"]["speedup"], rows["unlimited"]["mean_acceptance_length"]


def draw(axes, x, found, label):
    """The speed-ups over what is varied."""
    names = ("das", "best constant budget", "unlimited")
    for values, name, mark, colour in zip(np.array(found).T, names, "os^", (1, 2, 3), strict=False):
        axes.plot(x, values, marker=mark, color=COLOURS[colour], label=name)
    axes.axhline(1, color="black", lw=0.8, ls=":")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.set_xlabel(label)
    axes.set_ylabel("speed-up of the makespan")


# %% [markdown]
# ## How much rollouts repeat
#
# Spans of about 24 tokens are copied from a rollout of the same problem in the RL step before, with the probability on the
# axis. Nothing else decides as much: where nothing repeats, nothing is accepted, and whoever drafts loses what drafting takes.

# %%
REUSE = [0.0, 0.25, 0.5, 0.75, 0.95]
BY_REUSE = {slots: [speedups(slots, history_reuse=reuse) for reuse in REUSE] for slots in SLOTS}

figure, both = panels(11.5, 4.9, 2, top=1.15, sharey=True)
for axes, (slots, found) in zip(both, BY_REUSE.items(), strict=True):
    draw(axes, REUSE, found, "probability that a span is a copy")
    axes.set_title(f"{slots} slots", loc="left", fontsize=10)
both[0].legend(frameon=False)
(none, *_, low), (most, *_, high) = BY_REUSE[SLOTS[0]][0], BY_REUSE[SLOTS[0]][-1]
finding = f"With {SLOTS[0]} slots DAS is {none:.2f} times as fast where nothing repeats and {most:.2f} times "
finding += f"where nearly all does ({low:.2f} and {high:.2f} tokens a decode step)"
print(finish(figure, finding, "speed-up over no speculation", RESTS, f"profile {PROFILE}, suffix drafter"))

# %% [markdown]
# ## How many RL steps it has seen
#
# DAS sets its budgets by what drafts were worth on the history, which it replays from what came before that. With a single RL
# step before, nothing came before the history: drafts look worthless there, and DAS hardly gives any. A constant budget needs
# no such proof.

# %%
SEEN = [1, 2, 3]
trace = from_table(synth(**MADE, history_reuse=0.75), "made up")
settings = {"trace": "made up", "profile": PROFILE, "steps": SEEN, "engine": {"max_num_seqs": 64}}
result = run(build({**settings, "policies": ["none", *CONSTANT, "unlimited", "das"]}), trace)
steps = result.rl_steps.to_pandas().pivot_table(index="step", columns="system", values="speedup")
BY_SEEN = [(steps["das"][step], steps[CONSTANT].max(axis=1)[step], steps["unlimited"][step]) for step in SEEN]

figure, axes = panels(9.2, 4.9, top=1.1)
draw(axes, SEEN, BY_SEEN, "RL steps before")
axes.set_xticks(SEEN)
axes.legend(frameon=False, loc="lower right")
finding = f"After one RL step DAS is {BY_SEEN[0][0]:.2f} times as fast, after three {BY_SEEN[-1][0]:.2f} times; "
finding += f"the best constant budget {BY_SEEN[0][1]:.2f} and {BY_SEEN[-1][1]:.2f}"
print(finish(figure, finding, "speed-up over no speculation, 64 slots; three quarters of the spans are copies",
             "made-up rollouts: 32 prompts × 8, median 300 tokens, at most 3,000", f"profile {PROFILE}"))  # fmt: skip

# %% [markdown]
# ## How full the batch is
#
# The same rollouts at other numbers of slots. A full batch is limited by arithmetic: a draft that fails takes time from
# everybody, and DAS lets short rollouts go without. With few slots there is nothing to save: rollouts that go without only
# lose.

# %%
MANY = [1, 4, 16, 64, 256]
BY_SLOTS = [speedups(slots) for slots in MANY]

figure, axes = panels(9.2, 4.9, top=1.1)
draw(axes, MANY, BY_SLOTS, "slots, max_num_seqs (log scale)")
axes.set_xscale("log", base=4)
axes.set_xticks(MANY, MANY)
axes.legend(frameon=False)
das, constant = (np.array(BY_SLOTS)[:, at] for at in (0, 1))
finding = f"From {MANY[0]} to {MANY[-1]} slots DAS's speed-up goes from {das[0]:.2f} to {das[-1]:.2f}, "
finding += f"the best constant budget's from {constant[0]:.2f} to {constant[-1]:.2f}"
print(
    finish(
        figure,
        finding,
        "speed-up over no speculation; three quarters of the spans are copies",
        RESTS,
        f"profile {PROFILE}",
    )
)

# %% [markdown]
# ## Whether lengths can be told beforehand
#
# DAS's own part: drafts for those that will be long. `prompt_share` is the share of the variance of (log) lengths that is the
# problem's, and so can be known from its past; sigma is the standard deviation of log lengths, the weight of the tail.

# %%
SHARES, SIGMAS = [0.0, 0.5, 1.0], [0.3, 0.85, 1.3]
PART = 64
BY_SHARE = [speedups(PART, prompt_share=share) for share in SHARES]
BY_SIGMA = [speedups(PART, log_sigma=sigma) for sigma in SIGMAS]

figure, (left, right) = panels(11.5, 4.9, 2, top=1.15, sharey=True)
draw(left, SHARES, BY_SHARE, "share of the variance of lengths that is the problem's")
draw(right, SIGMAS, BY_SIGMA, "sigma of log lengths")
left.legend(frameon=False)
ratio = [one[0] / one[1] for one in BY_SHARE]
finding = f"DAS is {ratio[0]:.2f} times as fast as the best constant budget where lengths cannot be told, "
finding += f"{ratio[-1]:.2f} times where they can"
explained = f"{PART} slots; left: sigma 0.85, right: half of the variance is the problem's"
print(finish(figure, finding, explained, RESTS, f"profile {PROFILE}"))

# %% [markdown]
# ## What training leaves of it
#
# Drafts shorten rollouts. Log-probabilities, update and weight sync take as long as before, and an RL step gains what Amdahl's
# law leaves. Here costs are an estimate: Qwen3-8B on one H100 that generates and trains.

# %%
TRAINED = {"model": "qwen3-8b", "device": "h100", "stages": ["log_probs", "update", "sync"]}
base, own = played(256, ["none", "das"], TRAINED).runs.to_pylist()
SHARE = base["makespan_s"] / base["run_s"]
GAINS = (own["speedup"], own["run_speedup"])

figure, axes = panels(9.2, 4.9, top=1.1)
share = np.linspace(0, 1, 101)
for speedup, colour in ((1.5, 3), (GAINS[0], 1), (5.0, 2)):
    axes.plot(
        share, 1 / (1 - share + share / speedup), color=COLOURS[colour], label=f"rollouts {speedup:.2f} times as fast"
    )
axes.plot(SHARE, GAINS[1], "o", color="black", ms=9)
axes.annotate("simulated", (SHARE, GAINS[1]), (8, -12), textcoords="offset points")
axes.xaxis.set_major_formatter("{x:.0%}")
axes.set_xlabel("share of an RL step that is rollouts, without drafts")
axes.set_ylabel("speed-up of the RL step")
axes.legend(frameon=False)
axes.grid(alpha=0.3)
finding = (
    f"Rollouts {GAINS[0]:.2f} times as fast, {SHARE:.0%} of the RL step: the RL step is {GAINS[1]:.2f} times as fast"
)
print(finish(figure, finding, "lines: Amdahl's law; dot: DAS on the made-up rollouts, with training on the same GPU", RESTS,
             "qwen3-8b on h100, roofline estimate; training assumed at 40 % of the GPU's peak"))  # fmt: skip
