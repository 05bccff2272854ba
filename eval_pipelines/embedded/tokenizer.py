"""Text to token ids and back. Encoding is OpenVINO's; decoding is done on bytes here.

Why on bytes: one character may span several tokens, and OpenVINO's decoder drops the halves.
"""

from pathlib import Path
from typing import Any, Final

from eval_pipelines.embedded.errors import ApiError, GgufError, StartError
from eval_pipelines.embedded.gguf_file import GgufHeader

_CONTROL: Final = 3  # GGUF token type: <|im_end|> and its like, which are no text


class Tokenizer:
    """The tokenizer and chat template that travel in a GGUF file. Safe to use from several threads."""

    def __init__(self, path: Path, header: GgufHeader) -> None:
        kind = header.metadata.get("tokenizer.ggml.model")
        if kind != "gpt2":
            raise GgufError(f"{path.name} has a {kind!r} tokenizer; this server reads byte-level BPE ('gpt2') only.")
        try:
            import openvino_genai as genai

            self._tokenizer: Any = genai.Tokenizer(str(path))
        except RuntimeError as error:
            raise StartError(f"OpenVINO cannot read the tokenizer of {path.name}: {error}") from error
        kinds = header.metadata.get("tokenizer.ggml.token_type", [])
        self._pieces: list[bytes] = [b""] * len(header.metadata["tokenizer.ggml.tokens"])
        for piece, id_ in self._tokenizer.get_vocab().items():
            self._pieces[id_] = piece
        self.control_ids = frozenset(id_ for id_, kind in enumerate(kinds) if kind == _CONTROL)
        self.bos_token: str = self._tokenizer.get_bos_token()
        self.eos_token: str = self._tokenizer.get_eos_token()
        self.pad_token: str = self._tokenizer.get_pad_token()
        self.chat_template: str = self._tokenizer.get_original_chat_template()

    @property
    def n_vocabulary(self) -> int:
        """Number of token ids: valid ids are below it."""
        return len(self._pieces)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; special tokens written out in it are recognised. Takes about 0.2 ms per 200 characters.

        Raises ApiError for text that is no valid Unicode.
        """
        if not text:
            return []
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ApiError(f"the text is no valid Unicode: {error}") from error
        tokens = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).input_ids
        return [int(id_) for id_ in tokens.data[0]]

    def piece(self, id_: int) -> bytes:
        """The bytes of one token; control tokens as they are written, for example b'<|im_end|>'."""
        return self._pieces[id_]

    def label(self, id_: int) -> str:
        """One token as the API names it: its text, or `bytes:\\x..` for a token that is no whole character."""
        piece = self._pieces[id_]
        try:
            return piece.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, control tokens included. Incomplete characters become U+FFFD."""
        return b"".join(self._pieces[id_] for id_ in ids).decode("utf-8", errors="replace")

    def check_ids(self, ids: list[int], *, param: str) -> None:
        """Raises ApiError if an id is outside the vocabulary."""
        for id_ in ids:
            if not 0 <= id_ < len(self._pieces):
                raise ApiError(f"{param}: token id {id_} is not in 0..{len(self._pieces) - 1}.", param=param)

    def render_chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The conversation as one prompt, by the model's own template. Raises ApiError if it has none or refuses."""
        if not self.chat_template:
            raise ApiError("this model has no chat template: use /v1/completions.", param="messages")
        try:
            return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ApiError(f"messages: the model's chat template refuses them: {error}", param="messages") from error
