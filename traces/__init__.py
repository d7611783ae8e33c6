"""What was recorded: the rollout table, its readers, importers, description and synthesis."""
