"""Which rollout runs where and when: pure decisions, taken by nobody's clock."""
