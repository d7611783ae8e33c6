"""The command line in this process, as its own tests have it."""

from tests.cli.conftest import shell, small

__all__ = ["shell", "small"]
