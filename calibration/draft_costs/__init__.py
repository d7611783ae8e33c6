"""Measured costs of drafting, one YAML file each; found by name through an entry point."""
