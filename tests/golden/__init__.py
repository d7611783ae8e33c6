"""Stored figures of a fixed set of scenarios: what a change that is not meant to move a number must leave as it is."""
