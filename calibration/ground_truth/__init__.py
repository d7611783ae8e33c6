"""Recorded rollouts decoded on real hardware: what every step took, by machine, model, and sequences at once."""
