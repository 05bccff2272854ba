"""What is sent for a batch of requests, and what the reply to it says of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from eval_pipelines.client import batches, exchange, rolling, streaming
from eval_pipelines.client.dialects import as_sent, dialect
from eval_pipelines.client.failures import NoAnswer
from eval_pipelines.client.interception import Attempt
from eval_pipelines.client.transport import Client
from eval_pipelines.endpoint import Endpoint, Replica
from eval_pipelines.records import FailureKind


@dataclass(frozen=True, slots=True)
class Sent:
    """What is sent for a batch, whichever server gets it.

    Attributes:
        batch: As the endpoint is asked it.
        path: After the server's base URL.
        body: `said`, as JSON.
    """

    batch: batches.Batch
    spoken: ModuleType
    path: str
    said: dict[str, Any]
    body: bytes


def sent(batch: batches.Batch, endpoint: Endpoint) -> Sent:
    """What is sent for a batch. Raises UnsupportedError for what the endpoint's protocol cannot say."""
    first = as_sent(batch[0], endpoint)
    spoken = dialect(endpoint.protocol, first.operation)
    said = spoken.body(first, endpoint.served_name)
    said = said if len(batch) == 1 else batches.for_all(said, batch)
    said = streaming.asked(spoken, first, said, endpoint)
    path = f"{spoken.path(endpoint.served_name)}{endpoint.path_suffix}"
    return Sent((first, *batch[1:]), spoken, path, said, exchange.encoded(said))


async def told(
    client: Client, endpoint: Endpoint, replica: Replica, sent: Sent, attempt: Attempt
) -> Sequence[dict[str, Any]]:
    """Response fields of each request of the batch, after one attempt. Raises NoAnswer."""
    url = f"{replica.url}{sent.path}"
    try:
        attempt.reply = await exchange.post(client, url, sent.body, sent.spoken, headers=attempt.headers)
        found = batches.read(sent.spoken, sent.batch, attempt.reply)
    except NoAnswer as no_answer:
        is_too_long = no_answer.failure.kind is FailureKind.CONTEXT_LENGTH
        if not (is_too_long and attempt.request.operation == "loglikelihood_rolling"):
            raise
        name, document = endpoint.served_name, sent.batch[0]
        return [await rolling.told(client, replica.url, name, sent.path, sent.spoken, document, no_answer)]
    streaming.timed(found, attempt.reply)
    return found
