"""An online suffix automaton over token sequences: who follows whom, and how often.

A state stands for all strings that end at the same positions: the longest of them has LEN tokens, and the suffix link
leads to the class of the longest shorter suffix that ends at more positions (Blumer et al. 1985). Added here, kept
online and for strings of at most `depth` tokens: how often a class occurs, and each class's most frequent continuation.
The bound matters: without it every further token of a 32k-token loop updates up to 32k classes.

One automaton is one block of int32 words, named by its address `at`:

    header (16 words) | states (8 words each) | edges (4 words each) | hash table (2^b words)

State 0 is the root. A state's first transition lives in its record; further ones are edges, listed from MORE and found
by hashing (state, token) into the table. Most states have one transition, so most look-ups touch half a cache line.
"""

import numpy as np

from simulator.compiled import compiled, entry
from simulator.drafting.memory import load, store

NONE = -1
ROOT = 0

# header: used states and edges, where edges and table begin (in words), table size - 1,
# the state of the current sequence, and the state and length of its longest counted suffix
N_STATES, N_EDGES, EDGES_AT, TABLE_AT, MASK, LAST, ACTIVE, ACTIVE_LEN = range(8)
HEADER = 16

STATE = 8
LEN, LINK, COUNT, BEST_TOKEN, BEST_STATE, FIRST_TOKEN, FIRST_STATE, MORE = range(HEADER, HEADER + STATE)

EDGE = 4
TOKEN, TARGET, NEXT, OWNER = range(EDGE)


@compiled
def state_capacity(tokens: int) -> int:
    """Return how many states an automaton over `tokens` tokens can have, the root included."""
    return 2 * tokens + 2


@compiled
def edge_capacity(tokens: int, sequences: int) -> int:
    """Return how many edges it can have: each transition beyond a state's first belongs to a different suffix."""
    return tokens + 2 * sequences + 2


@compiled
def table_size(edges: int) -> int:
    """Return the power of two that holds `edges` edges at a load of at most two thirds."""
    size = 16
    while 2 * size < 3 * edges:
        size *= 2
    return size


@entry
def block_size(tokens: int, sequences: int) -> int:
    """Return the words that an automaton needs to grow to `tokens` tokens in `sequences` sequences."""
    edges = edge_capacity(tokens, sequences)
    return HEADER + STATE * state_capacity(tokens) + EDGE * edges + table_size(edges)


@compiled
def plant(at: int, tokens: int, sequences: int) -> None:
    """Make the block at `at` an empty automaton that can grow to `tokens` tokens in `sequences` sequences."""
    edges = edge_capacity(tokens, sequences)
    store(at, N_STATES, 0)
    store(at, N_EDGES, 0)
    store(at, EDGES_AT, HEADER + STATE * state_capacity(tokens))
    store(at, TABLE_AT, load(at, EDGES_AT) + EDGE * edges)
    store(at, MASK, table_size(edges) - 1)
    clear_table(at)
    new_state(at, 0)
    start_sequence(at)


@compiled
def clear_table(at: int) -> None:
    """Empty the hash table."""
    table = load(at, TABLE_AT)
    for slot in range(load(at, MASK) + 1):
        store(at, table + slot, NONE)


@compiled
def start_sequence(at: int) -> None:
    """Begin a sequence: what comes next follows nothing."""
    store(at, LAST, ROOT)
    store(at, ACTIVE, ROOT)
    store(at, ACTIVE_LEN, 0)


@compiled
def slot_of(state: int, token: int, mask: int) -> int:
    """Return the first slot to look for (state, token) in."""
    key = np.uint64(state) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(token) * np.uint64(0xC2B2AE3D27D4EB4F)
    return np.int64((key ^ (key >> np.uint64(29))) & np.uint64(mask))  # type: ignore[return-value]


@compiled
def target_of(at: int, state: int, token: int) -> int:
    """Return the state that `token` leads to from `state`, or NONE."""
    record = STATE * state
    if load(at, record + FIRST_TOKEN) == token:
        return load(at, record + FIRST_STATE)
    if load(at, record + MORE) == NONE:
        return NONE
    edges, table, mask = load(at, EDGES_AT), load(at, TABLE_AT), load(at, MASK)
    slot = slot_of(state, token, mask)
    while True:
        found = load(at, table + slot)
        if found == NONE:
            return NONE
        edge = edges + EDGE * found
        if load(at, edge + TOKEN) == token and load(at, edge + OWNER) == state:
            return load(at, edge + TARGET)
        slot = (slot + 1) & mask


@compiled
def file_edge(at: int, number: int) -> None:
    """Enter edge `number` in the hash table."""
    edge, table, mask = load(at, EDGES_AT) + EDGE * number, load(at, TABLE_AT), load(at, MASK)
    slot = slot_of(load(at, edge + OWNER), load(at, edge + TOKEN), mask)
    while load(at, table + slot) != NONE:
        slot = (slot + 1) & mask
    store(at, table + slot, number)


@compiled
def add_edge(at: int, state: int, token: int, target: int) -> None:
    """Give `state` a transition that it does not have yet."""
    record = STATE * state
    if load(at, record + FIRST_TOKEN) == NONE:
        store(at, record + FIRST_TOKEN, token)
        store(at, record + FIRST_STATE, target)
        return
    number = load(at, N_EDGES)
    store(at, N_EDGES, number + 1)
    edge = load(at, EDGES_AT) + EDGE * number
    store(at, edge + TOKEN, token)
    store(at, edge + TARGET, target)
    store(at, edge + NEXT, load(at, record + MORE))
    store(at, edge + OWNER, state)
    store(at, record + MORE, number)
    file_edge(at, number)


@compiled
def redirect(at: int, state: int, token: int, target: int) -> None:
    """Point an existing transition at another state."""
    record = STATE * state
    if load(at, record + BEST_TOKEN) == token:
        store(at, record + BEST_STATE, target)
    if load(at, record + FIRST_TOKEN) == token:
        store(at, record + FIRST_STATE, target)
        return
    edges, table, mask = load(at, EDGES_AT), load(at, TABLE_AT), load(at, MASK)
    slot = slot_of(state, token, mask)
    while True:
        edge = edges + EDGE * load(at, table + slot)
        if load(at, edge + TOKEN) == token and load(at, edge + OWNER) == state:
            store(at, edge + TARGET, target)
            return
        slot = (slot + 1) & mask


@compiled
def new_state(at: int, length: int) -> int:
    """Append a state without transitions whose longest string has `length` tokens."""
    state = load(at, N_STATES)
    store(at, N_STATES, state + 1)
    record = STATE * state
    store(at, record + LEN, length)
    store(at, record + COUNT, 0)
    for field in (LINK, BEST_TOKEN, BEST_STATE, FIRST_TOKEN, FIRST_STATE, MORE):
        store(at, record + field, NONE)
    return state


@compiled
def split(at: int, parent: int, token: int, child: int) -> int:
    """Give the strings of `child` that come from `parent` and shorter a class of their own: they end at more places now."""
    clone = new_state(at, load(at, STATE * parent + LEN) + 1)
    old, new = STATE * child, STATE * clone
    for field in (LINK, COUNT, BEST_TOKEN, BEST_STATE, FIRST_TOKEN, FIRST_STATE):
        store(at, new + field, load(at, old + field))
    number = load(at, old + MORE)
    while number != NONE:
        edge = load(at, EDGES_AT) + EDGE * number
        add_edge(at, clone, load(at, edge + TOKEN), load(at, edge + TARGET))
        number = load(at, edge + NEXT)
    store(at, old + LINK, clone)
    state = parent
    while state != NONE and target_of(at, state, token) == child:
        redirect(at, state, token, clone)
        state = load(at, STATE * state + LINK)
    return clone


@compiled
def extend(at: int, token: int) -> None:
    """Append `token` to the current sequence: every new substring is known from here on, though not counted."""
    last = load(at, LAST)
    longer = load(at, STATE * last + LEN) + 1
    known = target_of(at, last, token)
    if known != NONE:
        if load(at, STATE * known + LEN) != longer:
            known = split(at, last, token, known)
        store(at, LAST, known)
        return
    state = new_state(at, longer)
    parent, child = last, NONE
    while parent != NONE:
        child = target_of(at, parent, token)
        if child != NONE:
            break
        add_edge(at, parent, token, state)
        parent = load(at, STATE * parent + LINK)
    if parent == NONE:
        child = ROOT
    elif load(at, STATE * child + LEN) != load(at, STATE * parent + LEN) + 1:
        child = split(at, parent, token, child)
    store(at, STATE * state + LINK, child)
    store(at, LAST, state)


@compiled
def shorten(at: int, state: int, length: int) -> int:
    """Return the class of the last `length` >= 1 tokens of a string in `state` that is at least as long."""
    shorter = load(at, STATE * state + LINK)
    while load(at, STATE * shorter + LEN) >= length:
        state = shorter
        shorter = load(at, STATE * state + LINK)
    return state


@compiled
def observe(at: int, token: int, weight: int, depth: int) -> None:
    """Append `token` to the current sequence and count its suffixes of at most `depth` tokens, each `weight` times.

    Two chains are walked at once: `child` over the suffixes that end in `token`, whose counts rise; `parent` over the
    suffixes before it, whose favourite continuation may now be `token`. A favourite gives way only when strictly
    exceeded, so ties stay with the continuation that reached the count first.
    """
    extend(at, token)
    length = min(load(at, ACTIVE_LEN), depth - 1)
    parent = shorten(at, load(at, ACTIVE), length) if length > 0 else ROOT
    child = target_of(at, parent, token)
    store(at, ACTIVE, child)
    store(at, ACTIVE_LEN, length + 1)
    while child != ROOT:
        count = load(at, STATE * child + COUNT) + weight
        store(at, STATE * child + COUNT, count)
        shorter = load(at, STATE * child + LINK)
        shorter_len = load(at, STATE * shorter + LEN)
        while parent != NONE and load(at, STATE * parent + LEN) >= shorter_len:
            best = load(at, STATE * parent + BEST_STATE)
            if best != child and (best == NONE or load(at, STATE * best + COUNT) < count):
                store(at, STATE * parent + BEST_TOKEN, token)
                store(at, STATE * parent + BEST_STATE, child)
            parent = load(at, STATE * parent + LINK)
        child = shorter


@compiled
def follow(at: int, state: int, length: int, token: int, longest: int) -> tuple[int, int]:
    """Extend a match by `token`: (state, length) of the longest suffix, at most `longest` tokens, that occurs."""
    target = target_of(at, state, token)
    while target == NONE:
        if state == ROOT:
            return ROOT, 0
        state = load(at, STATE * state + LINK)
        length = load(at, STATE * state + LEN)
        target = target_of(at, state, token)
    length += 1
    if length > longest:
        length = longest
        target = shorten(at, target, length)
    return target, length
