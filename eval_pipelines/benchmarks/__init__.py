"""From a benchmark's name to samples, requests and a scorer.

Tasks, prompts, filters and metrics are lm-eval's own; this room replaces where the data comes from, who asks,
and what becomes of questions that got no answer.
"""
