"""What a system changes before anything runs: the workload (lengths, groups, spans) or the costs."""
