"""How a request is spoken to one kind of server: one file each, found by its name.

A protocol is one file (`triton.py`), or two where chat has routes of its own (`openai_chat.py`,
`openai_completions.py`). A dialect module offers

- `path(served_name) -> str`: the route, after the endpoint's URL;
- `body(request, served_name)`: what is sent, as JSON; raises UnsupportedError for what the protocol cannot say;
- `read(request, reply)`: Response fields of an answer, or raises NoAnswer;
- `VERSION_PATH`, optional: where the server tells its version, as JSON; `/version` if left out;
- `async served_names(client, url, served_name) -> list[str] | None`, in the protocol's only file or its `_chat`:
  the models the server at `url` says it serves; None if it does not say.

Optional, for servers that answer before they are done:

- `look_again(url, reply) -> str | None`: where to look for the rest of a reply to a request that was sent to `url`;
  None once it is done;
- `headers(request_timeout_s) -> dict`, in the protocol's only file or its `_chat`: sent with every request.

Optional, for servers that can answer as a stream of server-sent events:

- `streamed(body) -> dict`: the same body, asking for a stream. Not called for log-likelihoods;
- `Whole`: a class that puts the chunks of one reply together, as `_openai_stream.Whole` does: `add(chunk) -> bool`
  (it says something; raises NoAnswer for an error), `is_done`, `is_complete`, `n_tokens`, `n_gaps`, and `reply()`,
  which `read` reads as any other.
"""

from types import ModuleType

from eval_pipelines import plugins
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Request

_ROUTE = {"chat": "chat", "completion": "completions", "loglikelihood": "completions"}


def dialect(protocol: str, operation: str) -> ModuleType:
    """The file that speaks an operation in a protocol. Raises UnknownNameError for a protocol no file speaks."""
    known = plugins.names("client.dialects")
    name = protocol if protocol in known else f"{protocol}_{_ROUTE[operation]}"
    return plugins.load("client.dialects", name, kind="dialect")


def renamed(request: Request, endpoint: Endpoint) -> Request:
    """The request with its parameters called what the endpoint calls them. For sending only: its digest differs."""
    # OpenAI's completions kept the names that its chat has changed
    if not endpoint.renames or (endpoint.protocol == "openai" and request.operation != "chat"):
        return request
    new = {endpoint.renames.get(name, name): value for name, value in request.params.items()}
    return request.model_copy(update={"params": {name: value for name, value in new.items() if name is not None}})
