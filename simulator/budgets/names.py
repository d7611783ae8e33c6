"""The built-in budget policies by name, in words alone: nothing is imported, so that who asks what there is hears it at once."""

from typing import NamedTuple


class Told(NamedTuple):
    """usage: how to name it; what: it does, as its function says; source: where it comes from."""

    usage: str
    what: str
    source: str


NAMES = {
    "none": Told("none", "No speculation.", "baseline"),
    "fixed": Told("fixed:K", "K drafts for every sequence in every decode step.", "baseline"),
    "unlimited": Told("unlimited", "As many drafts as the drafter proposes.", "baseline"),
    "threshold": Told("threshold:K@B", "K drafts while at most B sequences are live, else none.", "baseline"),
    "schedule": Told("schedule:LOW-HIGH=K,...", "Drafts by batch size, from ranges, also as vLLM's list [[1,16,3],[32,128,2]]; "
                     "gaps keep the budget below them.", "vLLM, num_speculative_tokens_per_batch_size"),
    "buckets": Told("buckets", "A fixed draft length or tree strategy per bucket of batch sizes, none above a batch size.",
                    "TLT, arXiv 2511.16665"),
    "bandit": Told("bandit", "The draft length or strategy with the best median reward in the batch's bucket, a random one in a "
                   "tenth of the steps.", "TLT, arXiv 2511.16665"),
    "classes": Told("classes", "A fixed draft length per length class, by tokens emitted or by the prompt's past.",
                    "baseline of DAS, arXiv 2511.13841"),
    "das": Told("das", "Drafts by predicted length: by the closed-form optimum for Long and Medium rollouts, none for Short "
                "ones.", "DAS, arXiv 2511.13841"),
    "goodput": Told("goodput", "The draft length or tree strategy with the highest expected goodput, re-decided every 20 decode "
                    "steps.", "SmartSpec/TurboSpec, arXiv 2406.14066"),
    "aimd": Told("aimd", "A draft window per sequence: wider after a draft accepted whole, narrower after any other step.",
                 "RhymeRL, arXiv 2508.18588"),
    "adaptive": Told("adaptive", "A draft length per sequence: a moving average of its drafts, and more after one accepted "
                     "whole.", "DiffuSpec, arXiv 2510.02358"),
    "seer": Told("seer", "The batch's best draft length, its tokens shared out between long rollouts and others by marginal "
                 "benefit.", "Seer, arXiv 2511.14617"),
}  # fmt: skip
