"""Replicate's predictions: asked once, looked at until they are done, never paid twice."""

import time

import httpx
import pytest

from eval_pipelines.client.dialects import replicate
from eval_pipelines.client.failures import NoAnswer
from eval_pipelines.errors import ServingError, UnsupportedError, WrongModelError
from eval_pipelines.records import Request

from .borrowing import KEY, StandIn, ask_one, borrow, deployment, model

MODEL = "acme/small"


def how(stand_in: StandIn, text: str = ""):
    return deployment(f"provider: replicate, base_url: '{stand_in.root}/v1', {text}")


@pytest.fixture
def leased(tmp_path, stand_in):
    def lease_it(text: str = "", of: str = MODEL, **options):
        return borrow(tmp_path, how(stand_in, text), model(of), REPLICATE_API_TOKEN=KEY, **options)

    stand_in.set(models=[MODEL], key=f"Bearer {KEY}")
    return lease_it


def questions(stand_in: StandIn) -> list[dict]:
    """What was asked after the lease's own first request."""
    return stand_in.seen()[1:]


async def test_the_parts_of_an_answer_are_one_text_with_its_tokens(tmp_path, stand_in, leased) -> None:
    async with leased() as endpoint:
        [told] = await ask_one(tmp_path, endpoint, max_tokens=64, temperature=0.0, stop=["\n", "Q:"])
    assert (told.text, told.prompt_tokens, told.completion_tokens) == ("fourteen", 11, 2)
    [asked] = questions(stand_in)
    assert asked["path"] == "/v1/models/acme/small/predictions"
    assert asked["headers"]["prefer"] == "wait=60"
    given = {"max_tokens": 64, "temperature": 0.0, "stop_sequences": "\n,Q:"}
    assert asked["body"] == {"input": {"system_prompt": "Be short.", "prompt": "7+7?", **given}}


async def test_an_answer_in_one_piece_is_taken_as_it_is(tmp_path, stand_in, leased) -> None:
    stand_in.set(models=[MODEL], output="fourteen")
    async with leased() as endpoint:
        assert [one.text for one in await ask_one(tmp_path, endpoint)] == ["fourteen"]


@pytest.mark.slow
async def test_a_prediction_that_runs_on_is_looked_at_and_not_asked_again(tmp_path, stand_in, leased) -> None:
    async with leased() as endpoint:
        stand_in.set(states=["starting", "processing", "succeeded"])
        assert [one.text for one in await ask_one(tmp_path, endpoint)] == ["fourteen"]
    assert len(stand_in.seen()) == 1
    looks = [one["path"] for one in stand_in.seen(asks=False) if one["method"] == "GET"]
    assert len(looks) == 2
    assert all(path.startswith("/v1/predictions/p") for path in looks)


@pytest.mark.slow
async def test_a_look_that_fails_is_no_reason_to_ask_again(tmp_path, stand_in, leased) -> None:
    async with leased() as endpoint:
        stand_in.set(states=["starting", "succeeded"], looks_that_fail=2)
        [told] = await ask_one(tmp_path, endpoint)
    assert (told.text, told.n_attempts, len(stand_in.seen())) == ("fourteen", 1, 1)


@pytest.mark.slow
async def test_an_attempt_that_times_out_is_taken_up_by_the_next_and_paid_once(tmp_path, stand_in, leased) -> None:
    async with leased("request_timeout_s: 1.2") as endpoint:
        stand_in.set(states=["starting", *["processing"] * 2, "succeeded"])
        [told] = await ask_one(tmp_path, endpoint, max_attempts=4)
    assert (told.text, len(stand_in.seen())) == ("fourteen", 1)
    assert told.n_attempts > 1


@pytest.mark.slow
async def test_a_prediction_that_never_ends_is_a_timeout_in_its_time(tmp_path, stand_in, leased) -> None:
    async with leased("request_timeout_s: 1") as endpoint:
        stand_in.set(states=["starting"])
        started = time.perf_counter()
        [told] = await ask_one(tmp_path, endpoint, max_attempts=2)
    assert (told.failure.kind, len(stand_in.seen())) == ("timeout", 1)
    assert "still running after request_timeout_s = 1" in told.failure.message
    assert time.perf_counter() - started < 3


@pytest.mark.slow
async def test_repeats_of_a_question_are_predictions_of_their_own(tmp_path, stand_in, leased) -> None:
    async with leased("request_timeout_s: 1.2") as endpoint:
        stand_in.set(states=["starting", *["processing"] * 2, "succeeded"])
        told = await ask_one(tmp_path, endpoint, 3, max_attempts=4)
    assert ([one.text for one in told], len(stand_in.seen())) == (["fourteen"] * 3, 3)


FAILED = [
    ({"states": ["starting", "failed"], "error": "the prompt is too long for its context length"}, "context_length"),
    ({"states": ["starting", "failed"], "error": "CUDA error: device-side assert"}, "rejected"),
    ({"states": ["failed"], "error": None}, "rejected"),
    ({"states": ["starting", "canceled"]}, "rejected"),
    ({"output": None}, "empty"),
    ({"output": {"image": "x"}}, "malformed"),
    ({"states": ["dreaming"]}, "malformed"),
]


@pytest.mark.parametrize(("settings", "kind"), FAILED, ids=[f"{one}" for one, _ in FAILED])
async def test_a_prediction_without_an_answer_is_a_failure_of_its_kind(
    tmp_path, stand_in, leased, settings, kind
) -> None:
    async with leased() as endpoint:
        stand_in.set(**settings)
        [told] = await ask_one(tmp_path, endpoint, max_attempts=1)
    assert (told.text, told.failure.kind, len(stand_in.seen())) == (None, kind, 1)


async def test_log_likelihoods_are_refused_before_anything_is_asked(stand_in, leased) -> None:
    with pytest.raises(UnsupportedError, match="Replicate tells no log-probabilities"):
        async with leased(needs=("echo_logprobs",)):
            pass
    assert stand_in.seen() == []


async def test_a_model_that_is_not_there_is_found_out_without_paying(stand_in, leased) -> None:
    with pytest.raises(WrongModelError, match="acme/other"):
        async with leased(of="acme/other"):
            pass
    assert stand_in.seen() == []


async def test_a_wrong_token_is_told_by_its_variable(tmp_path, stand_in, leased) -> None:
    stand_in.set(models=[MODEL], key="Bearer another")
    with pytest.raises(ServingError, match="refused the key in REPLICATE_API_TOKEN: HTTP 401") as caught:
        async with leased():
            pass
    assert KEY not in str(caught.value)


async def test_the_key_goes_to_no_address_that_a_reply_names() -> None:
    running = {"id": "p1", "status": "starting", "urls": {"get": "https://elsewhere.invalid/p1"}}
    asked = "https://api.example/v1/models/a/b/predictions"
    assert replicate.look_again(asked, running) == "https://api.example/v1/predictions/p1"
    with pytest.raises(NoAnswer, match="without a usable id"):
        replicate.look_again(asked, {**running, "id": "../../p1"})


@pytest.mark.parametrize(
    ("served_name", "path"),
    [
        ("a/b", "/models/a/b/predictions"),
        ("a/b:0f3a", "/predictions"),
        ("deployments/a/b", "/deployments/a/b/predictions"),
    ],
)
async def test_models_versions_and_deployments_have_routes_of_their_own(served_name: str, path: str) -> None:
    assert replicate.path(served_name) == path
    running = {"id": "p1", "status": "processing"}
    assert replicate.look_again(f"http://x/v1{path}", running) == "http://x/v1/predictions/p1"


def test_a_version_is_named_in_the_body() -> None:
    request = Request(sample_id="s/0", subtask="s", operation="completion", prompt="7+7?")
    assert replicate.body(request, "a/b:0f3a") == {"input": {"prompt": "7+7?"}, "version": "0f3a"}


@pytest.mark.parametrize("roles", [["user", "assistant", "user"], ["system"], ["user", "system"]])
def test_a_conversation_is_refused_instead_of_being_flattened(roles: list[str]) -> None:
    messages = tuple({"role": role, "content": "x"} for role in roles)
    request = Request(sample_id="s/0", subtask="s", operation="chat", messages=messages)
    with pytest.raises(UnsupportedError, match="one user message"):
        replicate.body(request, "a/b")


async def test_asking_stops_at_what_cannot_be_said(tmp_path, stand_in, leased) -> None:
    async with leased() as endpoint:
        with pytest.raises(UnsupportedError, match="commas separate them"):
            await ask_one(tmp_path, endpoint, 3, stop=["a, b"])
    assert questions(stand_in) == []


def test_a_stop_sequence_with_a_comma_is_refused() -> None:
    request = Request(sample_id="s", subtask="s", operation="completion", prompt="x", params={"stop": ["a, b"]})
    with pytest.raises(UnsupportedError, match="commas separate them"):
        replicate.body(request, "a/b")


@pytest.mark.parametrize(("timeout_s", "says"), [(300.0, "wait=60"), (30.0, "wait=15"), (0.5, "wait=1")])
def test_the_server_answers_before_we_hang_up(timeout_s: float, says: str) -> None:
    assert replicate.headers(timeout_s) == {"prefer": says}


async def test_a_server_that_says_nothing_of_models_is_asked_all_the_same() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(500))
    async with httpx.AsyncClient(transport=transport) as client:
        assert await replicate.served_names(client, "http://x/v1", "a/b") is None
