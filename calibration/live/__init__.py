"""Rollouts on a real engine: vLLM serves them, every step of it is recorded, and the simulator is held to what it did."""
