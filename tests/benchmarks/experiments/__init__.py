"""The experiments of docs/experiments.md: every table there is printed by one of these modules."""
