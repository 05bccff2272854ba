"""Programs that run in an environment of their own: other packages, another Python, another process.

They import only the standard library, their environment's packages, each other, and `eval_pipelines.embedded`.
"""
