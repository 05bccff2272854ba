"""Dagster sensors: thin shells over pure functions of the core."""
