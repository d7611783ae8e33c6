"""The simulator once more, in plain Python with nothing made fast: the oracle that the compiled engine must match.

Written from the definitions alone; imports nothing of `simulator` and must never do so."""
