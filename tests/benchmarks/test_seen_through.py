"""A benchmark as one model is asked it: requests and answers go through a chain, versions stay."""

from typing import Any

from eval_pipelines.client.chain import Chain
from eval_pipelines.config.specs import ModelEntry


def chain(*listed: Any) -> Chain:
    entry = ModelEntry.model_validate({"deployment": ["d"], "interceptors": [*listed]})
    return Chain((), entry.interceptors)


def test_asking_and_grading_see_the_same_requests(gsm8k, say) -> None:
    plain = gsm8k(protocol="chat")
    seen = plain.seen_through(chain({"system_message": {"text": "Be brief."}}))
    assert (seen.ask_version, seen.score_version, seen.needs) == (plain.ask_version, plain.score_version, plain.needs)
    digests = [request.digest for request in seen.requests()]
    assert {*digests}.isdisjoint(request.digest for request in plain.requests())
    answers = {request.digest: say(request, "#### 2") for request in seen.requests()}
    assert seen.grade(answers)[1][0].n == 6
    assert plain.grade(answers)[1][0].n == 0, "the plain questions were not asked"


def test_what_is_graded_is_read_through_the_chain_and_noted_by_sample(gsm8k, say) -> None:
    seen = gsm8k(protocol="chat").seen_through(chain({"reasoning": {"include_if_not_finished": False}}))
    first, second, *rest = seen.requests()
    answers = {first.digest: say(first, "<think>#### 9</think>#### 2"), second.digest: say(second, "<think>#### 4")}
    scores = [one for one in seen.grade(answers)[0] if one.filter == "strict-match"]
    assert [(one.value, one.note, one.ungraded_reason) for one in scores[:2]] == [
        (1.0, None, None),
        (0.0, "unfinished reasoning", None),
    ]
    assert {(one.value, one.ungraded_reason) for one in scores[2:]} == {(None, "not_asked")}
    assert len(rest) == 4


def test_a_benchmarks_own_list_changes_the_version_of_what_it_changes(gsm8k) -> None:
    plain = gsm8k(protocol="chat")
    asking = gsm8k(protocol="chat", interceptors=[{"system_message": {"text": "a"}}])
    grading = gsm8k(protocol="chat", interceptors=["reasoning"])
    neither = gsm8k(protocol="chat", interceptors=["log"])
    assert (asking.ask_version != plain.ask_version, asking.score_version == plain.score_version) == (True, True)
    assert (grading.ask_version == plain.ask_version, grading.score_version != plain.score_version) == (True, True)
    assert (neither.ask_version, neither.score_version) == (plain.ask_version, plain.score_version)
