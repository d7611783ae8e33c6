"""Rollouts that are generated reasoning step by reasoning step, with steps drafted ahead."""
