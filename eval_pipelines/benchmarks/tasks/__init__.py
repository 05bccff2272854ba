"""The project's own tasks: lm-eval YAML, with the functions that a file names beside it."""
