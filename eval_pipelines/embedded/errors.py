"""Every error this server raises on purpose.

EmbeddedError
├── StartError        the operator can fix it: printed as one `error: ` line, exit code 2
│   └── GgufError     the weights are no GGUF file, a truncated one, or of a kind this server cannot read
├── EngineError       the engine failed or was lost: HTTP 500, and /health says 503
└── ApiError          a request this server refuses: HTTP 4xx with an OpenAI error object
"""


class EmbeddedError(Exception):
    """The root."""


class StartError(EmbeddedError):
    """The server cannot start; the message says what was wrong and what to do."""


class GgufError(StartError):
    """The weights file cannot be used."""


class EngineError(EmbeddedError):
    """The engine failed; the answer of every request it had is lost."""


class ApiError(EmbeddedError):
    """A refused request.

    Args:
        message: what was wrong and what would be right, for a person.
        status: HTTP status, 4xx.
        param: the field of the request that is at fault, if one is.
        code: a word for programs, as OpenAI and vLLM spell it where they have one.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code
