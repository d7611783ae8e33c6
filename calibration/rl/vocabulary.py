"""The tokens of problems and searches: one for each number, each sign and each move of the search."""

from collections.abc import Iterable

from calibration.rl.countdown import LARGEST, SIGNS, Problem

PAD, BEGIN, TARGET, SEARCH = "pad", "begin", "target", "search"
EQUALS, STATE, BACK, ANSWER, END = "=", ":", "<", "!", "end"

WORDS = (PAD, *(str(n) for n in range(1, LARGEST + 1)), *SIGNS, BEGIN, TARGET, SEARCH,
         EQUALS, STATE, BACK, ANSWER, END)  # fmt: skip
ID = {word: index for index, word in enumerate(WORDS)}
END_ID = ID[END]
VOCABULARY = len(WORDS)


def encode(words: Iterable[str]) -> list[int]:
    """Token ids of words."""
    return [ID[word] for word in words]


def decode(ids: Iterable[int]) -> list[str]:
    """Words of token ids."""
    return [WORDS[i] for i in ids]


def prompt_of(problem: Problem) -> list[str]:
    """The words that pose a problem: begin, its numbers, target, the target, search."""
    return [BEGIN, *map(str, problem.numbers), TARGET, str(problem.target), SEARCH]
