"""Values that differ from a given one in one of its parts."""

from collections.abc import Iterator

OTHERS = (None, "text", -1, 0.5, True, [], {}, [None], [{}], float("nan"), 10**20)


def mutants(value: object) -> Iterator[object]:
    """The value with each of its parts taken out, or made something else."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {other: one for other, one in value.items() if other != key}
            yield from (value | {key: other} for other in OTHERS)
            yield from (value | {key: mutant} for mutant in mutants(inner))
    elif isinstance(value, list) and value:
        yield value[1:]
        for mutant in (*mutants(value[0]), *OTHERS):
            yield [mutant, *value[1:]]
