"""Groups of another width, and a share of the prompts: many rollouts of few prompts, or few of many (BroRL, 2510.01180)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.special

from simulator.drafting.draws import levels, parted, prompt_keys
from simulator.spec import number, read, refuse, whole
from simulator.transforms.groups import Groups, groups_of
from simulator.transforms.tables import BY_TOKEN, RIGHT, recorded, rewards_of, with_column, without
from traces.errors import UnfitTraceError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
UInt64 = npt.NDArray[np.uint64]

MOST_SAMPLES = 100_000
LAST_SAMPLE = 2**31 - 1


@dataclass(frozen=True)
class Width:
    """So many rollouts for each prompt, of a share of each RL step's prompts.

    samples: rollouts of a group, or times: as many times those that it has; neither: as recorded. prompts: share of an RL step's
    prompts that are kept, one at least, drawn by prompt. prior: what is added to the right and the wrong answers of a group to
    tell its pass probability, by which rewards of rollouts drawn besides are drawn; 0: they have those of the ones they copy.
    """

    samples: int | None = None
    times: int = 1
    prompts: float = 1.0
    prior: float = 0.0
    name = "width"
    lossless = True

    @property
    def assumes(self) -> str:
        """How rollouts that were not recorded come about."""
        told = "lengths and rewards of ones drawn from the group with replacement"
        if self.prior:
            told = f"rewards drawn by the prompt's pass probability (prior {self.prior:g}), lengths of that reward in the group"
        return f"width: rollouts beyond the recorded ones have {told}; then no tokens are known, of any rollout"

    def rollouts(self, trace: Trace, seed: int) -> Trace:
        """Return the trace of groups of that width: the lowest samples of each, or all and more, behind the last of its group."""
        groups = self._kept(trace, groups_of(trace), seed)
        width = self.times * groups.sizes if self.samples is None else np.full_like(groups.sizes, self.samples)
        own = groups.rows[groups.place < width[groups.group]]
        if (width > groups.sizes).any():
            return self._drawn(trace, groups, own, np.maximum(width - groups.sizes, 0), seed)
        return trace if own.size == len(trace) else trace.select(np.sort(own))

    def facts(self, trace: Trace) -> Mapping[str, float]:
        """The share of groups whose rewards differ, of a trace that it made."""
        if not recorded(trace, "reward"):
            return {}
        groups = groups_of(trace)
        rewards = rewards_of(trace)[groups.rows]
        least, most = (of.reduceat(rewards, groups.begins) for of in (np.minimum, np.maximum))
        return {"mixed_groups": float((least < most).mean())}

    def _kept(self, trace: Trace, groups: Groups, seed: int) -> Groups:
        """The groups of prompts that are kept: so many of each RL step, those with the lowest draws."""
        if self.prompts == 1:
            return groups
        prompt, step = trace.prompt[groups.firsts], trace.step[groups.firsts]
        _, begins, counts = np.unique(step, return_index=True, return_counts=True)  # groups are in order of RL step
        kept = np.maximum(np.rint(self.prompts * counts), 1)
        order = np.lexsort((levels(prompt_keys(trace.prompt_ids, prompt, seed, "prompts")), step))
        keep = np.zeros(order.size, np.bool_)
        keep[order] = np.arange(order.size) - np.repeat(begins, counts) < np.repeat(kept, counts)
        return groups.chosen(keep)

    def _drawn(self, trace: Trace, groups: Groups, own: Int64, missing: Int64, seed: int) -> Trace:
        """The trace of its own rollouts and of so many more of each group, which are numbered on."""
        more = np.repeat(np.arange(missing.size), missing)
        place = np.arange(more.size) - np.repeat(np.cumsum(missing) - missing, missing)
        sample = trace.sample[groups.lasts].astype(np.int64)[more] + 1 + place
        if sample.max() > LAST_SAMPLE:
            raise UnfitTraceError(
                f"{trace.source}: transform width: would number samples up to {sample.max()}: begin at 0"
            )
        of_group = parted(
            prompt_keys(trace.prompt_ids, trace.prompt[groups.firsts], seed, "width"), trace.step[groups.firsts]
        )
        keys = parted(of_group[more], sample)
        if self.prior:
            copied, rewards = self._judged(trace, groups, more, of_group, keys)
        else:
            copied = groups.rows[groups.begins[more] + _one_of(groups.sizes[more], keys)]
        rows, samples = np.concatenate([own, copied]), np.concatenate([trace.sample[own].astype(np.int64), sample])
        behind = np.concatenate([own, groups.ends[more]])
        order = np.lexsort((samples, np.arange(rows.size) >= own.size, behind))
        plain = without(trace, [*BY_TOKEN, "prompt_token_ids"])
        made = with_column(replace(plain, table=plain.table.take(rows[order])), "sample", samples[order])
        if self.prior:
            made = with_column(made, "reward", np.concatenate([rewards_of(trace)[own], rewards])[order])
        return made

    def _judged(
        self, trace: Trace, groups: Groups, more: Int64, of_group: UInt64, keys: UInt64
    ) -> tuple[Int64, Float64]:
        """What each rollout drawn besides copies, and its reward; of_group: keys of groups, keys: of these rollouts."""
        at_ends, rewards = _ends_of_rewards(trace), rewards_of(trace)
        right = rewards[groups.rows] >= RIGHT
        rows = groups.rows[np.lexsort((groups.place, ~right, groups.group))]  # the right ones of a group first
        passed = np.add.reduceat(right.astype(np.int64), groups.begins)
        failed = groups.sizes - passed
        chance = scipy.special.betaincinv(self.prior + passed, self.prior + failed, levels(of_group))
        is_right = levels(parted(keys, np.zeros(keys.size, np.int64))) < chance[more]
        alike = np.where(is_right, passed[more], failed[more])
        begin = groups.begins[more] + np.where(is_right | (alike == 0), 0, passed[more])  # of all, where none is alike
        copied = rows[begin + _one_of(np.where(alike == 0, groups.sizes[more], alike), keys)]
        return copied, np.where(alike == 0, at_ends[is_right.astype(np.int64)], rewards[copied])


def width(argument: str) -> Width:
    """Groups of another width: `width:samples=512,prompts=0.25` or `width:times=32`."""
    readers = {
        "samples": whole(1, MOST_SAMPLES), "times": whole(1, MOST_SAMPLES), "prompts": number(1e-9, 1), "prior": number(0, 1e6),
    }  # fmt: skip
    given = read("width", argument, readers, "transform")
    if {"samples", "times"} <= given.keys():
        refuse("width", argument, "has two widths: give samples= or times=", "transform")
    if not {"samples", "times", "prompts"} & given.keys():
        refuse("width", argument, "changes nothing: write width:samples=512,prompts=0.25", "transform")
    return Width(**given)


def _one_of(counts: Int64, keys: UInt64) -> Int64:
    """One of so many, from 0, by the draw of each key."""
    return np.floor(levels(keys) * counts).astype(np.int64)


def _ends_of_rewards(trace: Trace) -> Float64:
    """The rewards of a wrong and of a right answer where a group has none: the least and the most of the trace, else 0 and 1."""
    rewards = rewards_of(trace) if recorded(trace, "reward") else np.full(1, np.nan)
    if missing := int(np.isnan(rewards).sum()):
        raise UnfitTraceError(
            f"{trace.source}: transform width: prior= draws right and wrong answers, and {missing} rollouts have no reward: "
            "record them, or leave it out"
        )
    least, most = float(rewards.min()), float(rewards.max())
    return np.array([least if least < RIGHT else 0.0, most if most >= RIGHT else 1.0])
