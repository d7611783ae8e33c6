"""The RL step around the rollout: which rollouts make a step and when it is over (loops), and what happens to them (stages)."""
