"""What decides whether a system pays: a sweep each, in a YAML file of its name (`python -m tests.pays NAME ...`)."""
