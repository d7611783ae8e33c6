"""What people measured with speculative decoding: a file of facts for each public report, and its replay.

`python -m tests.reports` prints reported beside simulated speed-ups. A report's facts are never fitted to: where a replay
has the wrong sign and the mechanism is understood, the row says so (`wrong_because`).
"""
