"""Measured serving runs, read from what engines and benchmark clients write: `read.read_run` recognises the kind.

A run is requests with their times, the engine's settings as far as they were recorded, and what had to be left out.
"""
