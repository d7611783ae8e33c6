"""Shipped cost profiles, one YAML file each; read by `simulator.cost.load_profile` through an entry point."""
