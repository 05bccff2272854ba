"""Weights & Biases: a run for each family, by its own library.

The library reads its key and its mode from the environment (WANDB_API_KEY, WANDB_MODE=offline and the rest); neither
passes through here. A run cannot be asked what it holds while offline, so what was sent is kept in a file of this
project. Where a number was replaced, a new run is made; the former stays there, tagged by nothing: W&B has no trash.

Needs   the extra `wandb`
Source  W&B documentation, "Python SDK": init with id and resume, define_metric
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from eval_pipelines.errors import ConfigError, EvalPipelinesError
from eval_pipelines.exporters import Course, Sent, Target, values_of
from eval_pipelines.keys import digest

TO: Final = "`project` or `entity/project`"
STEP: Final = "training_step"

# step → metric → value, as it was sent
Told = dict[str, dict[str, float]]


def export(courses: Sequence[Course], target: Target) -> Sent:
    """Continue each course's run by what is new.

    Raises:
        ConfigError: the library is not installed, or W&B does not let it in.
        EvalPipelinesError: the library failed; with its own words.
    """
    try:
        import wandb
    except ImportError:
        raise ConfigError("Weights & Biases' library is not installed: pip install 'eval-pipelines[wandb]'.") from None
    ledger = target.folder / f"wandb-{digest(target.to, n_bytes=4)}.json"
    sent: dict[str, dict[str, Any]] = json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else {}
    n_new_runs = n_new = n_known = n_replaced = 0
    for course in courses:
        wanted = _told(course)
        former = sent.get(course.name)
        if former and not _continues(former["told"], wanted):
            former, n_replaced = None, n_replaced + 1
        missing = _missing(former["told"] if former else {}, wanted)
        n_course = sum(1 for point in course.points if point.key in missing.get(str(point.step), {}))
        n_new, n_known = n_new + n_course, n_known + len(course.points) - n_course
        if not missing:
            continue
        # the same numbers have the same id, wherever they are sent from
        identity = former["id"] if former else digest([target.to, course.name, wanted], n_bytes=8)
        n_new_runs += former is None
        try:
            _log(wandb, target, identity, course, missing)
        except wandb.errors.AuthenticationError as error:
            raise ConfigError(f"W&B does not let us in: {error}. Set WANDB_API_KEY, or WANDB_MODE=offline.") from None
        except wandb.errors.Error as error:
            raise EvalPipelinesError(f"W&B could not take {course.name}: {error}") from error
        sent[course.name] = {"id": identity, "told": wanted}
        _keep(ledger, sent)
    return Sent(f"W&B project {target.to}", n_new_runs, n_new, n_known, n_replaced)


def _log(wandb: Any, target: Target, identity: str, course: Course, missing: Told) -> None:
    entity, _, project = target.to.rpartition("/")
    with wandb.init(
        project=project, entity=entity or None, id=identity, name=course.name, resume="allow", dir=str(target.folder),
        config=course.tags, settings=wandb.Settings(silent=True, console="off", disable_code=True, disable_git=True),
    ) as run:  # fmt: skip
        # the library's own step only ever grows; a late evaluation of an early checkpoint has its place, too
        run.define_metric("*", step_metric=STEP)
        for step, values in sorted(missing.items(), key=lambda one: int(one[0])):
            run.log({STEP: int(step), **values})


def _told(course: Course) -> Told:
    told: Told = {}
    for point in course.points:
        told.setdefault(str(point.step), {}).update(values_of(point))
    return told


def _continues(former: Told, wanted: Told) -> bool:
    """Whether everything that was sent still holds."""
    return all(
        wanted.get(step, {}).get(key) == value for step, values in former.items() for key, value in values.items()
    )


def _missing(former: Told, wanted: Told) -> Told:
    new = {
        step: {key: value for key, value in values.items() if key not in former.get(step, {})}
        for step, values in wanted.items()
    }
    return {step: values for step, values in new.items() if values}


def _keep(ledger: Path, sent: dict[str, dict[str, Any]]) -> None:
    aside = ledger.with_suffix(".tmp")
    aside.write_text(json.dumps(sent), encoding="utf-8")
    os.replace(aside, ledger)
