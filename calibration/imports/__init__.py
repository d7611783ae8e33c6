"""Profiles that others measured, read into ours: their kernels, on the steps that our engine asks about."""
