"""Dagster assets: the cells of the grid and the tables over them."""
