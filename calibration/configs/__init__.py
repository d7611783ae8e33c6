"""Configurations of small models for calibration on a CPU."""
