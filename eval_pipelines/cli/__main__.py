"""`python -m eval_pipelines.cli`."""

from eval_pipelines.cli import main

main()
