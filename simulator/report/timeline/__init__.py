"""A run as a timeline for Perfetto: replicas, stages, RL steps and stragglers as tracks and counters.

`phases` joins decode steps into slices, `tracks` lays out what a result holds, `protobuf` writes Perfetto's trace format.
"""
