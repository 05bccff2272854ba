"""What evals.yaml asks for: which models there are, and which of them are to be asked which benchmarks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from eval_pipelines.checkpoints import Scan
from eval_pipelines.config import Config, WatchedRoot
from eval_pipelines.models import claims, key_of


@dataclass(frozen=True, slots=True)
class Configured:
    """One look at evals.yaml and its watched folders.

    Attributes:
        pairs: (model key, benchmark): asked without anybody's doing. (model key, "") and ("", benchmark): there is one,
            which somebody may ask or be asked. ("", ""): the file as such.
        unsettled: Keys of checkpoints of which nothing can be said: being written, unusable as they are, or in several
            places.
        is_all_seen: Whether every watched folder could be read.
    """

    pairs: frozenset[tuple[str, str]]
    unsettled: frozenset[str] = frozenset()
    is_all_seen: bool = True

    def changes(self, before: Collection[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        """What is new (true) and what is gone (false). What cannot be seen stays as it was."""
        gone = {
            (model, benchmark)
            for model, benchmark in set(before) - self.pairs
            if not model or (self.is_all_seen and model not in self.unsettled)
        }
        return dict.fromkeys(sorted(gone), False) | dict.fromkeys(sorted(self.pairs.difference(before)), True)


def what_is_configured(config: Config, looked: Sequence[tuple[WatchedRoot, Scan]]) -> Configured:
    """The models named by hand but for judges, and each whole checkpoint with its folder's suite, as sensors ask it."""
    places = claims(config, looked)
    clashing = {key for key, at in places.items() if len(at) > 1}
    suites = {str(one.model_key): root.suite for root, scan in looked for one in scan.finished}
    suites |= {str(one.whole_as): root.suite for root, scan in looked for one in scan.waiting if one.whole_as}
    asked = {key: config.expand([suite]) for key, suite in suites.items() if key not in clashing}
    judges = {str(key) for spec in config.benchmarks.values() if spec.judge for key in spec.judge.models}
    models = asked.keys() | config.models.keys() - judges
    pairs = {("", ""), *((model, "") for model in models), *(("", benchmark) for benchmark in config.benchmarks)}
    pairs |= {(model, benchmark) for model, benchmarks in asked.items() for benchmark in benchmarks}
    # the folder itself waits, by its absolute name, where it cannot be read
    is_all_seen = not any(one.name == str(root.path) for root, scan in looked for one in scan.waiting)
    ignored = {key for root, scan in looked for one in scan.ignored if (key := key_of(root, one.name))}
    unsettled = clashing | ignored | (places.keys() - suites.keys() - config.models.keys())
    return Configured(frozenset(pairs), frozenset(unsettled), is_all_seen)
