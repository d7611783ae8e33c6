"""Where a rollout stands in what it drafts from: its frozen history, and the automaton of its own prompt and output."""

from simulator.compiled import compiled
from simulator.drafting.automaton import (
    ACTIVE,
    ACTIVE_LEN,
    BEST_STATE,
    LEN,
    LINK,
    NONE,
    ROOT,
    STATE,
    follow,
    observe,
    plant,
    shorten,
)
from simulator.drafting.memory import load
from simulator.records import layout


class Standing:
    """Automata are at addresses of int32 words."""

    history: int  # 0 for none
    matched: int  # the state of the longest match in it
    length: int  # of the match, in tokens
    own: int  # 0 for none: own output is not searched


STANDING = layout(Standing)


@compiled
def begin(standing: Standing, room: int) -> None:
    """Begin with nothing; `room`: tokens that prompt and output can have."""
    standing.matched, standing.length = ROOT, 0
    if standing.own != 0:
        plant(standing.own, room, 1)


@compiled
def take(history: int, matched: int, length: int, own: int, token: int, depth: int) -> tuple[int, int]:
    """Go on by a token; returns the match in the history."""
    if history != 0:
        matched, length = follow(history, matched, length, token, depth - 1)
    if own != 0:
        observe(own, token, 1, depth)
    return matched, length


@compiled
def continued(at: int, state: int, length: int) -> tuple[int, int]:
    """Return (state, length) of the longest suffix of a match that something follows."""
    while state != ROOT and load(at, STATE * state + BEST_STATE) == NONE:
        state = load(at, STATE * state + LINK)
        length = load(at, STATE * state + LEN)
    return state, length


@compiled
def longest_match(history: int, matched: int, length: int, own: int, depth: int) -> tuple[int, int, int]:
    """Return (automaton, state, length) of the longest match that something follows; ties go to own output, length 0: none."""
    at, state = history, matched
    if history != 0:
        state, length = continued(at, state, length)
    if own != 0 and load(own, ACTIVE_LEN) > 0:
        own_len = min(load(own, ACTIVE_LEN), depth - 1)
        own_state, own_len = continued(own, shorten(own, load(own, ACTIVE), own_len), own_len)
        if own_len >= length:
            return own, own_state, own_len
    return at, state, length
