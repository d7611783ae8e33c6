"""vLLM's suffix decoding with its global cache, by brute force: one sequence after the other learns, and then is drafted for.

From vllm/v1/spec_decode/suffix_decoding.py of 0.32.0 and arctic-inference 0.3.0: a table of all responses, one of the prompt and
the response of each request; both learn every token that the sampler returned, those past a rollout's end too.
"""

from collections.abc import Sequence

from tests.reference.suffix import Counts, Draft, Tokens, draft_scored

ROUNDING = 1e-6
"""The engine adds scores up in single precision: six tokens at 2/3 may be worth more than eight at 1/2, or less."""


class SuffixDecoding:
    """What an engine has learnt since it was emptied; settings as vLLM names them."""

    def __init__(self, max_tree_depth: int, max_spec_factor: float, min_token_prob: float) -> None:
        self.depth = max_tree_depth
        self.settings = {"factor": max_spec_factor, "min_prob": min_token_prob, "rounding": ROUNDING}
        self.responses = Counts(max_tree_depth)
        self.own: dict[int, Counts] = {}
        self.known: dict[int, tuple[list[int], list[int]]] = {}

    def propose(self, request: int, prompt: Tokens, sampled: Sequence[int], budget: int) -> set[Draft]:
        """Learn what was sampled for a request and return what may be drafted next for it: one draft per way to resolve ties."""
        if request not in self.own:
            self.own[request], self.known[request] = Counts(self.depth), (list(prompt), [])
            for token in prompt:
                self.own[request].append(token)
        before, response = self.known[request]
        for token in sampled:
            self.own[request].append(token)
            self.responses.append_to(response, token)
            response.append(token)
        context = [*before, *response][-self.depth :]
        alone, all_of_them = (
            draft_scored(None, table, context, budget, **self.settings) for table in (self.own[request], self.responses)
        )
        least_alone, least_of_all = (min(score for _, score in drafts) for drafts in (alone, all_of_them))
        return {draft for draft in alone if draft[1] >= least_of_all - ROUNDING} | {
            draft for draft in all_of_them if draft[1] > least_alone - ROUNDING
        }
