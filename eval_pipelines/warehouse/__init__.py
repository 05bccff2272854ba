"""From records to tables: landing (Parquet, the truth), publish (DuckDB, derived), read.

Import the module you need; this package imports nothing by itself, so that loading it stays free.
"""
