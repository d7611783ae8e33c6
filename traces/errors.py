"""The one error that bad input raises, wherever it is found, and the kind of it that others may be spared."""


class InputError(ValueError):
    """Input that cannot be used; its message is one line: what was wrong, the value, where, and what to do."""


class UnfitTraceError(InputError):
    """A good trace that one system cannot run: others that it is compared with may."""
