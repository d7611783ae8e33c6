"""Counts of ArcticInference's own C++, for the tests that hold the drafters to it: run by a Python that has arctic-inference.

Reads JSON from stdin: {"groups": [{"past": [[token]], "now": [[token]]}], "settings": [[max_spec, factor, with_history,
use_tree_spec]]}; a group is a prompt. Prints [[sequence-steps, drafted, accepted] of each setting]: each rollout of `now` is
decoded alone, after the past ones of its group.
"""

import json
import sys

from arctic_inference.suffix_decoding import SuffixDecodingCache

DEPTH = 24


def decode(
    cache: SuffixDecodingCache, name: str, output: list[int], max_spec: int, factor: float, tree: bool
) -> list[int]:
    """Return [steps, drafted, accepted] of one rollout."""
    steps = drafted = accepted = done = 0
    cache.start_request(name, [])
    while done < len(output):
        draft = cache.speculate(name, output[:done][-DEPTH:], max_spec, factor, 0.0, 0.1, tree)
        reached, right = -1, 0
        for node, (token, parent) in enumerate(zip(draft.token_ids, draft.parents, strict=True)):
            if parent == reached and done + right < len(output) and token == output[done + right]:
                reached, right = node, right + 1
        emitted = output[done : done + right + 1]
        cache.add_active_response(name, emitted)
        steps, accepted, done = steps + 1, accepted + right, done + len(emitted)
        drafted += len(draft.token_ids)
    cache.stop_request(name)
    if name in cache.cached_requests:
        cache.evict_cached_response(name)
    return [steps, drafted, accepted]


def main() -> None:
    """Measure."""
    asked = json.load(sys.stdin)
    found = []
    for max_spec, factor, with_history, tree in asked["settings"]:
        total = [0, 0, 0]
        for group in asked["groups"]:
            cache = SuffixDecodingCache(DEPTH, -1 if with_history else 0)
            for number, output in enumerate(group["past"] if with_history else []):
                cache.start_request(f"past {number}", [])
                cache.add_active_response(f"past {number}", output)
                cache.stop_request(f"past {number}")
            for output in group["now"]:
                counts = decode(cache, "now", output, max_spec, factor, tree)
                total = [a + b for a, b in zip(total, counts, strict=True)]
        found.append(total)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
