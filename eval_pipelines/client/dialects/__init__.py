"""How a request is spoken to one kind of server: one file each, found by its name.

A protocol is one file (`triton.py`), or two where chat has routes of its own (`openai_chat.py`,
`openai_completions.py`). A dialect module offers

- `path(served_name) -> str`: the route, after the endpoint's URL;
- `body(request, served_name)`: what is sent, as JSON;
- `read(request, reply)`: Response fields of an answer, or raises NoAnswer;
- `async served_names(client, url, served_name) -> list[str] | None`, in the protocol's only file or its `_chat`:
  the models the server at `url` says it serves; None if it does not say.
"""

from types import ModuleType

from eval_pipelines import plugins

_ROUTE = {"chat": "chat", "completion": "completions", "loglikelihood": "completions"}


def dialect(protocol: str, operation: str) -> ModuleType:
    """The file that speaks an operation in a protocol. Raises UnknownNameError for a protocol no file speaks."""
    known = plugins.names("client.dialects")
    name = protocol if protocol in known else f"{protocol}_{_ROUTE[operation]}"
    return plugins.load("client.dialects", name, kind="dialect")
