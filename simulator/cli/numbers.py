"""Numbers on the command line: digits that everybody reads, in a range."""

from typing import Any

import click

from traces.plain import is_plain


class Count(click.IntRange):
    """A whole number within a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what only Python takes for a number: `1_0`, digits of other scripts."""
        _check_plain(self, value, param, ctx)
        return super().convert(value, param, ctx)


class Finite(click.FloatRange):
    """A float within a range; `nan` is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what compares with nothing, and what only Python takes for a number."""
        _check_plain(self, value, param, ctx)
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value} is not a number", param, ctx)
        return number


def _check_plain(
    kind: click.IntRange | click.FloatRange, value: Any, param: click.Parameter | None, ctx: click.Context | None
) -> None:
    if isinstance(value, str) and not is_plain(value):
        kind.fail(f"{value!r} is not a number in digits 0 to 9", param, ctx)
