"""Which flags SGLang's releases have, as read in `sglang/srt/server_args.py` (from 0.5.14 on `sglang/srt/arg_groups/fields`)."""

from packaging.version import Version

ALWAYS = {
    "model-path", "max-running-requests", "context-length", "chunked-prefill-size", "page-size", "disable-radix-cache",
    "disable-overlap-schedule", "max-total-tokens", "kv-cache-dtype", "tp-size", "dp-size", "enable-dp-attention",
    "speculative-algorithm", "speculative-draft-model-path", "speculative-num-steps", "speculative-eagle-topk",
    "speculative-num-draft-tokens",
}  # fmt: skip
"""In every release from 0.5.1 to 0.5.23."""
CHANGED = {
    "0.5.3": (
        {"ngram-branch-length", "ngram-max-match-window-size", "ngram-max-bfs-breadth", "ngram-match-type"}, set(),
    ),
    "0.5.10": ({"ngram-max-trie-depth"}, {"ngram-branch-length", "ngram-max-match-window-size"}),
    "0.5.11": ({"adaptive", "adaptive-config"}, set()),
}  # fmt: skip
"""By release: flags of speculation that came and went, behind `speculative-`; of others nothing is emitted."""
ALGORITHMS = {
    "0.5.1": {"EAGLE", "EAGLE3", "NEXTN"}, "0.5.2": {"STANDALONE"}, "0.5.3": {"NGRAM"}, "0.5.11": {"DFLASH"},
}  # fmt: skip
"""Values of --speculative-algorithm, by the release that they came with."""


def flags_of_release(release: Version) -> set[str]:
    flags = set(ALWAYS)
    for since, (came, went) in CHANGED.items():
        if release >= Version(since):
            flags |= {f"speculative-{name}" for name in came}
            flags -= {f"speculative-{name}" for name in went}
    return flags


def algorithms_of_release(release: Version) -> set[str]:
    return {name for since, names in ALGORITHMS.items() if release >= Version(since) for name in names}
