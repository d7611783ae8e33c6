"""The `rolloutsim` command: the only package that prints. `command` is what is installed; `main` runs the command line anywhere.

`import simulator.cli` loads nothing: Ctrl-C is answered before anything is that takes time.
"""

TYPE_CHECKING = False  # that of typing, which takes longer to load than all else here
if TYPE_CHECKING:
    from typing import Any

    from simulator.cli.commands import COMMANDS, cli, main

__all__ = ["COMMANDS", "cli", "command", "main"]


def command() -> None:
    """Be the installed command: `main` in a process of its own, which signals end, and which keeps what it imported."""
    import signal

    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word until there is somebody to say one
    from simulator.cli.ending import BySignals

    with BySignals() as signals:
        import gc
        import sys

        _settle()
        from simulator.cli.commands import main

        try:
            main(signals=signals)
        finally:
            if "torch" not in sys.modules:  # parts of it complain of what is left when the process ends
                gc.freeze()  # nobody needs to look for garbage in what was imported


def _settle() -> None:
    """Have this process be as the command needs it."""
    import gc
    import logging
    import os
    import sys

    gc.set_threshold(100_000)
    os.environ["MPLBACKEND"] = "agg"  # pictures go into files; a notebook's own backend may not be installed here
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it keeps its fonts, for one, is nobody's concern
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it is closed, and the next file would be taken for it
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - for as long as the process lives


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return globals().setdefault(name, getattr(import_module("simulator.cli.commands"), name))
