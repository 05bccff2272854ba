"""How a request is spoken to one kind of server: one file each, found by its name.

A dialect module offers `PATH`, `body(request, served_name)` and `read(request, reply)`; `read` returns
Response fields of an answer, or raises NoAnswer.
"""

OF_OPERATION = {"chat": "openai_chat", "completion": "openai_completions", "loglikelihood": "openai_completions"}
