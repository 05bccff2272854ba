"""Hugging Face causal models behind Triton: torch and transformers, one batch at a time.

Requests of a batch that are greedy and want the same are generated together, padded on the left. Sampled ones are
generated alone, because what a seed gives would else depend on who shares the batch.

Source  transformers 5, "Generation", "Chat templates"
"""

import importlib
import math
import threading
from pathlib import Path
from typing import Any

from eval_pipelines.serving.servers.questions import Answer, Question, StartError

_DEFAULT_COMPLETION_TOKENS = 16  # as OpenAI and vLLM
_GREEDY_BELOW = 1e-5
_KNOWN = {"max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "stop"}
# what clients send whether they need it or not
_NEUTRAL: dict[str, tuple[Any, ...]] = {"n": (1, None), "stream": (False, None), "logprobs": (1, None), "echo": (True,)}


class TorchEngine:
    """A model, its tokenizer, and a lock: torch computes one batch at a time."""

    def __init__(
        self, weights: Path, *, max_context: int | None, threads: int, device: str, dtype: str, trust_remote_code: bool
    ) -> None:
        """Load the model. Raises StartError; ModuleNotFoundError where torch or transformers are missing."""
        self._torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        if threads:
            self._torch.set_num_threads(threads)
        more = {"trust_remote_code": trust_remote_code, "local_files_only": True}
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(weights, **more)
            model = transformers.AutoModelForCausalLM.from_pretrained(weights, dtype=dtype, **more)
        except (OSError, ValueError) as error:
            raise StartError(f"transformers cannot load {weights.name}: {error}") from error
        if not self._tokenizer.is_fast:
            raise StartError(f"{weights.name} has no tokenizer.json: only a fast tokenizer tells where tokens begin")
        self._model = model.to(device).eval()
        # sampling is what the request says, and nothing that lies beside the weights
        ends = model.generation_config.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else {*(ends or ())}
        self._ends |= {self._tokenizer.eos_token_id} - {None}
        model.generation_config = transformers.GenerationConfig()
        self._pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else min(self._ends)
        of_model = int(getattr(model.config, "max_position_embeddings", 0) or 2048)
        if max_context is not None and max_context > of_model:
            raise StartError(f"--max-context {max_context} is more than the model's own: {of_model}")
        self._max_context, self._device, self._lock = max_context or of_model, device, threading.Lock()
        self.name = f"transformers {transformers.__version__}, torch {self._torch.__version__}"

    def trouble(self) -> None:
        """It lives as long as this process."""

    def stop(self) -> None:
        """Nothing was started."""

    def answer(self, questions: list[Question]) -> list[Answer]:
        """Likelihoods one by one, then each group of like generations."""
        found: dict[int, Answer] = {}
        groups: dict[Any, list[tuple[int, list[int]]]] = {}
        for i, question in enumerate(questions):
            try:
                if question.operation == "loglikelihood":
                    found[i] = self._likelihood(question)
                    continue
                ids, settings = self._planned(question)
                alone = i if settings["temperature"] >= _GREEDY_BELOW else None
                groups.setdefault((alone, *_hashable(settings)), []).append((i, ids))
            except ValueError as error:
                found[i] = Answer(error=str(error))
        for (_, *settings), members in groups.items():
            told = self._generate([ids for _, ids in members], dict(settings))
            found |= dict(zip((i for i, _ in members), told, strict=True))
        return [found[i] for i in range(len(questions))]

    def _planned(self, question: Question) -> tuple[list[int], dict[str, Any]]:
        told = question.parameters
        for name, value in told.items():
            if name not in _KNOWN and value not in _NEUTRAL.get(name, (None,)):
                raise ValueError(f"{name}: not supported by this server; leave it out")
        is_chat = question.operation == "chat"
        text = self._chat(question) if is_chat else question.text
        ids = self._tokenizer(text, add_special_tokens=not is_chat)["input_ids"]
        wanted = told.get("max_completion_tokens") or told.get("max_tokens")
        if wanted is None:
            wanted = max(1, self._max_context - len(ids)) if is_chat else _DEFAULT_COMPLETION_TOKENS
        self._check_room(ids, wanted)
        stop = told.get("stop") or []
        defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": None}
        settings = {name: told[name] if told.get(name) is not None else value for name, value in defaults.items()}
        return ids, {**settings, "max_tokens": wanted, "stop": (stop,) if isinstance(stop, str) else tuple(stop)}

    def _chat(self, question: Question) -> str:
        try:
            messages = list(question.messages)
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:
            # templates raise what they like
            raise ValueError(f"the model's chat template refuses the messages: {error}") from error

    def _check_room(self, ids: list[int], wanted: int) -> None:
        if not ids:
            raise ValueError("the prompt is empty: it needs at least one token")
        if len(ids) + wanted > self._max_context:
            raise ValueError(
                f"This model's maximum context length is {self._max_context} tokens. However, you requested "
                f"{len(ids) + wanted} tokens ({len(ids)} in the prompt, {wanted} for the answer)."
            )

    def _generate(self, prompts: list[list[int]], settings: dict[str, Any]) -> list[Answer]:
        torch = self._torch
        width = max(map(len, prompts))
        rows = torch.tensor([[self._pad] * (width - len(one)) + one for one in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=self._device)
        how: dict[str, Any] = {"max_new_tokens": settings["max_tokens"], "pad_token_id": self._pad}
        if settings["temperature"] >= _GREEDY_BELOW:
            how |= {name: settings[name] for name in ("temperature", "top_p", "top_k")} | {"do_sample": True}
        else:
            how["do_sample"] = False
        if settings["stop"]:
            how |= {"stop_strings": list(settings["stop"]), "tokenizer": self._tokenizer}
        with self._lock, torch.inference_mode():
            if settings["seed"] is not None:
                torch.manual_seed(settings["seed"] % 2**63)
            out = self._model.generate(input_ids=rows, attention_mask=mask, eos_token_id=sorted(self._ends), **how)
        told = out[:, width:].tolist()
        return [self._text(len(prompt), ids, settings) for prompt, ids in zip(prompts, told, strict=True)]

    def _text(self, n_prompt: int, ids: list[int], settings: dict[str, Any]) -> Answer:
        end = next((i for i, id_ in enumerate(ids) if id_ in self._ends), None)
        ids, is_stopped = (ids, False) if end is None else (ids[: end + 1], True)
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        cuts = [at for stop in settings["stop"] if (at := text.find(stop)) >= 0]
        if cuts:
            text, is_stopped = text[: min(cuts)], True
        return Answer(text, "stop" if is_stopped else "length", n_input=n_prompt, n_output=len(ids))

    def _likelihood(self, question: Question) -> Answer:
        text, torch = question.text + question.continuation, self._torch
        coded = self._tokenizer(text, return_offsets_mapping=True)
        ids, n_context = coded["input_ids"], len(question.text)
        tokens = [i for i, (first, last) in enumerate(coded["offset_mapping"]) if last > max(first, n_context)]
        if not tokens or tokens[0] == 0:
            raise ValueError("the first token has no log-probability: give a context of at least one token")
        self._check_room(ids, 0)
        with self._lock, torch.inference_mode():
            logits = self._model(input_ids=torch.tensor([ids], device=self._device)).logits[0]
        rows = torch.log_softmax(logits[[i - 1 for i in tokens]].float(), dim=-1)
        chosen = torch.tensor([ids[i] for i in tokens], device=rows.device)
        total = math.fsum(rows.gather(1, chosen[:, None]).flatten().tolist())
        if not math.isfinite(total):
            raise ValueError("no finite log-probability for the continuation")
        is_greedy = bool((rows.argmax(dim=-1) == chosen).all())
        return Answer(log_likelihood=total, is_greedy=is_greedy, n_input=len(ids), n_output=0)


def _hashable(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))
