"""The backend `command` reads the metrics that the operator names."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import command

pytestmark = pytest.mark.unit
MODEL = Model(ModelKey("a", "b"), "one", "f00d", Path(__file__))


def test_named_metrics_are_read_from_the_usual_route() -> None:
    names = {"n_running": "x:running", "n_finished": 'x_total{outcome="ok",code="200"}'}
    told = command.command(command.Spec(argv=("serve",), metric_names=names), MODEL, host="127.0.0.1", port=1)
    assert (told.metrics_path, told.metric_names) == ("/metrics", names)


def test_without_names_nothing_is_read() -> None:
    told = command.command(command.Spec(argv=("serve",)), MODEL, host="127.0.0.1", port=1)
    assert (told.metrics_path, told.metric_names) == (None, {})


@pytest.mark.parametrize(
    "names",
    [{"n_runing": "x"}, {"n_running": ""}, {"n_running": "x y"}, {"n_running": "x{y=1}"}, {"n_running": 'x{y="1"'}],
)
def test_a_name_that_cannot_be_is_refused(names) -> None:
    with pytest.raises(ValidationError):
        command.Spec(argv=("serve",), metric_names=names)
