"""From a trace to a decision: what could draft on this engine, which of it is best, and whether it pays where it was not chosen.

`advice.advise` joins the parts: candidates, split, search, judge, verdict.
"""
