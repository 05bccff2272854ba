"""Dagster resources: configuration in, core calls out. No policy."""
