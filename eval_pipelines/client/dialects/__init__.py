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

Optional, for log-likelihoods of documents that are longer than the model's context:

- `body_of_tokens(window, served_name, params)` and `read_of_tokens(n_context, n_tokens, reply)`: `body` and `read` for
  the token ids of a window, of which the first `n_context` are not predicted.

Optional, for servers that can answer as a stream of server-sent events:

- `streamed(body) -> dict`: the same body, asking for a stream. Not called for log-likelihoods;
- `Whole`: a class that puts the chunks of one reply together, as `_openai_stream.Whole` does: `add(chunk) -> bool`
  (it says something; raises NoAnswer for an error), `is_done`, `is_complete`, `n_tokens`, `n_gaps`, and `reply()`,
  which `read` reads as any other.
"""

from functools import cache
from types import ModuleType

from eval_pipelines import plugins
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Request


@cache
def dialect(protocol: str, operation: str) -> ModuleType:
    """The file that speaks an operation in a protocol. Raises UnknownNameError for a protocol no file speaks."""
    known = plugins.names("client.dialects")
    route = "chat" if operation == "chat" else "completions"
    name = protocol if protocol in known else f"{protocol}_{route}"
    return plugins.load("client.dialects", name, kind="dialect")


def as_sent(request: Request, endpoint: Endpoint) -> Request:
    """The request as this endpoint is asked it. For sending and reading only: its digest differs.

    Its parameters are called what the endpoint calls them. A text with nothing before it, a document that is read as
    one (`loglikelihood_rolling`) included, follows what begins texts there: dialects know but `loglikelihood`.
    """
    if request.is_from_start:
        start = {"operation": "loglikelihood", "prompt": endpoint.text_start or ""}
        request = request.model_copy(update=start)
    # OpenAI's completions kept the names that its chat has changed
    if not endpoint.renames or (endpoint.protocol == "openai" and request.operation != "chat"):
        return request
    new = {endpoint.renames.get(name, name): value for name, value in request.params.items()}
    return request.model_copy(update={"params": {name: value for name, value in new.items() if name is not None}})
