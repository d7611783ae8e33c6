"""Whether a response solves its problem: the reward of the RL run."""

from calibration.rl.countdown import LARGEST, SIGNS, Operation, Problem, after, result_of
from calibration.rl.vocabulary import ANSWER, END, EQUALS


def reward(problem: Problem, words: list[str]) -> float:
    """1 where the response ends with a correct answer, else 0; how it was found does not count."""
    return float(solves(problem, answer_of(words)))


def answer_of(words: list[str]) -> list[Operation] | None:
    """The operations between the first `!` and the final `end`; None where there are none or they cannot be read."""
    if not words or words[-1] != END or ANSWER not in words:
        return None
    spelled = words[words.index(ANSWER) + 1 : -1]
    steps = [spelled[i : i + 5] for i in range(0, len(spelled), 5)]
    return [_operation(step) for step in steps] if steps and all(map(_readable, steps)) else None


def solves(problem: Problem, answer: list[Operation] | None) -> bool:
    """Whether the operations are right, use every number exactly once, and end with the target."""
    state = problem.numbers
    for operation in answer or ():
        a, sign, b, value = operation
        left = list(state)
        for number in (a, b):
            if number not in left:
                return False
            left.remove(number)
        if result_of(a, sign, b) != value:
            return False
        state = after(state, operation)
    return state == (problem.target,)


def _readable(step: list[str]) -> bool:
    return len(step) == 5 and all(map(_is_number, step[::2])) and step[1] in SIGNS and step[3] == EQUALS


def _is_number(word: str) -> bool:
    return word.isdecimal() and 1 <= int(word) <= LARGEST


def _operation(step: list[str]) -> Operation:
    return int(step[0]), step[1], int(step[2]), int(step[4])
