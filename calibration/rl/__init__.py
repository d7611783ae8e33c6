"""A small, real RL run, every rollout of it recorded: a transformer learns to solve search problems by writing its search.

From the task to the loop: countdown, vocabulary, search, verifier; policy, generate, batches; sft, grpo; state, record.
"""
