"""Reasoning steps drafted ahead, by name: the part of a system that generates each rollout step by step (`lookahead`)."""

from dataclasses import dataclass

from simulator.drafting.reasoning import StepLaw
from simulator.spec import Reader, number, one_of, read, refuse, whole

WHAT = "reasoning"
MOST_DEPTH, MOST_TOKENS, MOST_SHARE, LONGEST_S = 64, 1_000_000, 10_000, 10.0
READERS: dict[str, Reader] = {
    "depth": whole(0, MOST_DEPTH), "acceptance": number(0.0, 1.0), "step": number(1.0, MOST_TOKENS), "cap": whole(1, MOST_TOKENS),
    "spread": one_of("geometric", "none"), "mode": one_of("async", "sync"), "draft": str, "draft_s": number(1e-9, LONGEST_S),
    "judge": str, "judge_s": number(0.0, LONGEST_S), "share": whole(1, MOST_SHARE),
}  # fmt: skip


@dataclass(frozen=True)
class Reasoning:
    """Lookahead Reasoning (2506.19830): a draft model writes steps ahead, the target expands each prefix, a judge decides.

    law: of reasoning steps; depth: steps drafted ahead; waits: the synchronous variant, in which a cycle ends with its last lane;
    draft, judge: a model of the catalogue, or seconds of each of its decode steps (judge 0: verdicts take no time), on a GPU each
    beside so many replicas as `share` says.
    """

    law: StepLaw
    depth: int
    waits: bool
    draft: str | float
    judge: str | float
    share: int = 1

    @property
    def lossless(self) -> bool:
        """Without drafts alone: the judge accepts text that says the same, not what the target would have written."""
        return self.depth == 0

    @property
    def assumes(self) -> str:
        """What results rest on."""
        return (
            f"lookahead: a drafted step is accepted with probability {self.law.acceptance:g}, whatever the rollout; steps have "
            f"{self.law.tokens:g} tokens ({self.law.spread}) unless recorded, at most {self.law.cap}; rollouts keep their lengths"
        )

    def gpus(self, replicas: int) -> int:
        """GPUs of drafts and judges beside so many replicas."""
        return 0 if self.depth == 0 else -(-replicas // self.share) * (1 + (self.judge != 0.0))


def resolve_reasoning(spec: str) -> Reasoning:
    """Return what `lookahead:depth=6,acceptance=0.47,...` says; InputError says what is wrong with it."""
    name, _, argument = spec.partition(":")
    if name != "lookahead":
        refuse(name, argument, "is unknown: use lookahead", WHAT)
    given = read(name, argument, READERS, WHAT)
    for key, example in (("depth", "depth=6"), ("acceptance", "acceptance=0.47"), ("step", "step=40")):
        if key not in given:
            refuse(name, argument, f"needs {key}: write {example}", WHAT)
    for key in ("draft", "judge"):
        if (key in given) == (f"{key}_s" in given):
            need = f"needs {key} or {key}_s, one of both: a model's name, or seconds of its decode step"
            refuse(name, argument, need, WHAT)
    law = StepLaw(given["step"], given.get("cap", MOST_TOKENS), given.get("spread", "geometric"), given["acceptance"])
    if law.spread == "none" and not (law.tokens == int(law.tokens) <= law.cap):
        refuse(name, argument, "gives all steps equal lengths: give step in whole tokens, at most cap", WHAT)
    draft, judge = (given[key] if key in given else given[f"{key}_s"] for key in ("draft", "judge"))
    return Reasoning(law, given["depth"], given.get("mode", "async") == "sync", draft, judge, given.get("share", 1))
