"""KV blocks of the reference serving engine."""

import math
from collections import deque
from collections.abc import Hashable, Sequence


class Pool:
    """KV blocks: who is referenced how often, who is free in order of eviction, and who is cached under which key."""

    def __init__(self, num_gpu_blocks: int | None) -> None:
        self.limited = num_gpu_blocks is not None
        self.references = dict.fromkeys(range(1, num_gpu_blocks or 1), 0)  # block 0 is the null block
        self.free = deque(self.references)
        self.copies: dict[Hashable, list[int]] = {}
        self.key_of: dict[int, Hashable] = {}

    def available(self) -> float:
        return len(self.free) if self.limited else math.inf

    def allocate(self, blocks: int) -> list[int]:
        return [self.allocate_one() for _ in range(blocks)]

    def allocate_one(self) -> int:
        if self.limited:
            block = self.free.popleft()
            if block in self.key_of:
                self.copies[self.key_of.pop(block)].remove(block)
        else:
            block = len(self.references) + 1
        self.references[block] = 1
        return block

    def touch(self, block: int) -> None:
        if self.references[block] == 0:
            self.free.remove(block)
        self.references[block] += 1

    def release(self, table: Sequence[int]) -> None:
        for block in reversed(table):
            self.references[block] -= 1
            if self.references[block] == 0:
                self.free.append(block)

    def give_key(self, block: int, key: Hashable) -> None:
        """Cache the block, unless it is; of several with one key, the first is found."""
        if block not in self.key_of:
            self.key_of[block] = key
            self.copies.setdefault(key, []).append(block)

    def forget(self) -> None:
        """Cache nothing."""
        self.copies, self.key_of = {}, {}

    def find(self, key: Hashable) -> int | None:
        return next(iter(self.copies.get(key, ())), None)
