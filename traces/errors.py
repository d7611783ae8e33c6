"""The one error that bad input raises, wherever it is found."""


class InputError(ValueError):
    """Input that cannot be used; its message is one line: what was wrong, the value, where, and what to do."""
