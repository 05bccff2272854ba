"""Every provider through a real lease, its address pointed to a stand-in that remembers what it was sent."""

import re
from pathlib import Path
from typing import get_args

import pytest

from eval_pipelines.config import Config
from eval_pipelines.errors import ConfigError, ServingError, WrongModelError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import resolve
from eval_pipelines.serving.backends.hosted import PROVIDERS, ProviderName, bind

from .borrowing import KEY, ask_one, borrow, deployment, model

NAMED = {"azure": "resource: acme, ", "bedrock": "region: us-west-2, "}


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        deployment(text)
    return str(caught.value)


# what a provider fills in


def test_the_table_holds_the_names_that_may_be_written() -> None:
    assert sorted(PROVIDERS) == sorted(get_args(ProviderName))


def test_the_table_in_the_documentation_is_the_table_here() -> None:
    text = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(https://[^`]+)` \| `(\w+)`", text, re.MULTILINE)
    here = {
        name: (re.sub(r"\{(\w+)\}", lambda m: m[1].upper(), one.base_url), one.key_env)
        for name, one in PROVIDERS.items()
    }
    assert {name: (url, env) for name, url, env in rows} == here


ADDRESSES = {
    "azure": "https://acme.openai.azure.com/openai/v1",
    "bedrock": "https://bedrock-runtime.us-west-2.amazonaws.com/openai/v1",
    "huggingface": "https://router.huggingface.co/v1",
    "nvidia": "https://integrate.api.nvidia.com/v1",
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "replicate": "https://api.replicate.com/v1",
    "together": "https://api.together.ai/v1",
}


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_a_provider_by_its_name_has_its_address(name: str) -> None:
    how = deployment(f"provider: {name}, {NAMED.get(name, '')}")
    assert bind(how.spec, model()).urls == (ADDRESSES[name],)


def test_azure_with_a_dated_version_asks_the_deployment() -> None:
    how = deployment("provider: azure, resource: acme, api_version: 2024-10-21")
    bound = bind(how.spec, model("my gpt"))
    assert bound.urls == ("https://acme.openai.azure.com/openai/deployments/my%20gpt",)
    assert bound.path_suffix == "?api-version=2024-10-21"


REFUSED = [
    ("", "`base_url` is missing"),
    ("provider: azure", "needs `resource`"),
    ("provider: bedrock", "needs `region`"),
    ("provider: azure, resource: acme.evil.example/x", "must be a single name"),
    ("provider: openai, region: us-west-2", "`region` is a field of bedrock"),
    ("provider: openai, api_version: 2024-10-21", "`api_version` is a field of azure"),
    ("provider: opanai", "azure"),
    ("base_url: 'http://a.example', base_urls: ['http://b.example']", "not both"),
    ("base_urls: ['http://a.example', 'http://a.example/']", "twice"),
    ("base_url: 'http://me:secret@a.example'", "carries credentials"),
    ("base_url: 'http://a.example/v1?key=1'", "has a query"),
    ("base_url: 'http://'", "name a host"),
    ("base_url: 'http://a.example:port/v1'", "host and port"),
    ("base_url: 'http://a.example:99999/v1'", "host and port"),
    ("base_url: 'http://[::1/v1'", "host and port"),
    ("base_url: 'http://a.example/v 1'", "without spaces"),
    ("base_url: 'http://a.example', headers: {authorization: x}", "name the variable that holds it in `api_key_env`"),
    ("base_url: 'http://a.example', headers: {team: 'Bearer abc'}", "name the variable"),
    ("base_url: 'http://a.example', headers: {'a b': x}", "can be no HTTP header"),
    ("base_url: 'http://a.example', api_key_header: 'a b'", "can be no HTTP header"),
    ("base_url: 'http://a.example', request_timeout_s: 1.0e+20", "at most"),
    ("base_url: 'http://a.example', request_timeout_s: .inf", "number"),
    ("provider: openai, proxy_credentials_env: PROXY_KEY", "says nothing without `proxy`"),
    ("provider: openai, proxy: 'http://me:secret@proxy.example:3128'", "carries credentials"),
    ("provider: openai, requests_per_minute: 0", "must be at least 1"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED, ids=[text or "nothing" for text, _ in REFUSED])
def test_what_cannot_work_is_refused_with_what_to_write(text: str, says: str) -> None:
    assert says in refusal(text)


@pytest.mark.parametrize("key", ["sk-proj-abc", "hf_AbCdEfGhIjKlMnOpQr1234", "r8_AbCdEfGhIjKlMnOpQr1234", "a b"])
def test_a_key_in_the_place_of_a_variables_name_is_refused_and_not_repeated(key: str) -> None:
    told = refusal(f"provider: openai, api_key_env: '{key}'")
    assert "looks like a key" in told
    assert key not in told


def mark(text: str, entry: str = "served_name: mock") -> str:
    """The fingerprint of the model `mock@a` of a hosted deployment."""
    entries = f"deployments: {{one: {{backend: hosted, {text}}}}}\nmodels: {{mock@a: {{deployment: one, {entry}}}}}"
    return resolve(Config.parse(entries, path=Path("/nowhere/evals.yaml")), ModelKey("mock", "a")).fingerprint


@pytest.mark.parametrize("where", ["base_url", "provider: openai, proxy"])
def test_a_key_in_an_address_is_not_repeated(where: str) -> None:
    told = refusal(f"{where}: 'https://a.example/v1?api_key=SUPERSECRET123'")
    assert "has a query" in told
    assert "SUPERSECRET" not in told


def test_the_address_of_a_provider_is_part_of_the_models_version() -> None:
    assert mark("provider: openai") == mark("base_url: https://api.openai.com/v1")
    assert mark("provider: openai") != mark("provider: together")
    assert mark("base_urls: ['http://a.example', 'http://b.example']") == mark("base_url: http://a.example")


def test_the_name_that_is_really_sent_is_part_of_the_models_version() -> None:
    of_deployment = mark("provider: openai, served_name: mock", entry="")
    assert of_deployment == mark("provider: openai") == mark("provider: openai, served_name: other")
    assert of_deployment != mark("provider: openai, served_name: other", entry="")
    assert mark("provider: openai", entry="") == mark("provider: openai", entry='served_name: "mock@a"')


def test_what_a_model_is_never_sent_is_part_of_its_version_and_not_how_the_rest_is_called() -> None:
    plain = mark("provider: openai")
    assert plain == "4b42953a2714396a18d7a0a9ad37da2e", "what is landed stays known"
    assert plain == mark("provider: openai, renames: {max_tokens: max_output_tokens}")
    assert plain != mark("provider: openai, renames: {temperature: null}")
    assert mark("provider: openai, renames: {stop: null, temperature: null}") == mark(
        "provider: openai, renames: {temperature: null, stop: null}"
    )


# through a lease

SPEAK_OPENAI = sorted(name for name, one in PROVIDERS.items() if one.protocol == "openai")


@pytest.mark.parametrize("name", SPEAK_OPENAI)
async def test_each_provider_is_leased_and_asked_with_its_key_in_its_header(tmp_path, stand_in, name) -> None:
    known = PROVIDERS[name]
    stand_in.set(key_header=known.key_header, key=known.key_prefix + KEY)
    how = deployment(f"provider: {name}, base_url: '{stand_in.root}/v1'")
    async with borrow(tmp_path, how, **{known.key_env: f"{KEY}\n"}) as endpoint:
        assert KEY not in repr(endpoint)
        assert [one.text for one in await ask_one(tmp_path, endpoint)] == ["fourteen"]
    assert stand_in.seen()[-1]["headers"][known.key_header] == known.key_prefix + KEY


@pytest.mark.parametrize("name", SPEAK_OPENAI)
async def test_a_wrong_key_is_told_by_its_variable_and_never_shown(tmp_path, stand_in, name) -> None:
    stand_in.set(key_header=PROVIDERS[name].key_header, key="another")
    how = deployment(f"provider: {name}, base_url: '{stand_in.root}/v1'")
    variable = PROVIDERS[name].key_env
    with pytest.raises(ServingError, match=f"refused the key in {variable}: HTTP 401") as caught:
        async with borrow(tmp_path, how, **{variable: KEY}):
            pass
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", sorted(PROVIDERS))
async def test_a_missing_key_variable_is_named_and_nothing_is_asked(tmp_path, stand_in, name) -> None:
    how = deployment(f"provider: {name}, base_url: '{stand_in.root}/v1'")
    with pytest.raises(ConfigError, match=f"{PROVIDERS[name].key_env} is not set.*provider {name} takes its key"):
        async with borrow(tmp_path, how):
            pass
    assert stand_in.seen(asks=False) == []


async def test_a_model_that_is_not_listed_is_the_wrong_model(tmp_path, stand_in) -> None:
    stand_in.set(models=["other"])
    how = deployment(f"provider: nvidia, base_url: '{stand_in.root}/v1'")
    with pytest.raises(WrongModelError, match="serves other, not 'mock'"):
        async with borrow(tmp_path, how, NVIDIA_API_KEY=KEY):
            pass
    assert stand_in.seen() == []


async def test_where_the_list_says_nothing_the_first_request_shows_a_wrong_model(tmp_path, stand_in) -> None:
    stand_in.set(models=["other"], only_models=["other"])
    how = deployment(f"provider: openrouter, base_url: '{stand_in.root}/v1'")
    with pytest.raises(WrongModelError, match="does not know 'mock'"):
        async with borrow(tmp_path, how, OPENROUTER_API_KEY=KEY):
            pass


async def test_a_name_that_the_router_does_not_list_is_asked_all_the_same(tmp_path, stand_in) -> None:
    how = deployment(f"provider: huggingface, base_url: '{stand_in.root}/v1'")
    async with borrow(tmp_path, how, model("mock:fastest"), HF_TOKEN=KEY) as endpoint:
        assert endpoint.offers == {"chat"}


async def test_a_bare_list_of_models_is_no_reason_to_refuse(tmp_path, stand_in) -> None:
    stand_in.set(models=["other"], models_as_list=True)
    how = deployment(f"provider: together, base_url: '{stand_in.root}/v1', lists_models: true")
    async with borrow(tmp_path, how, TOGETHER_API_KEY=KEY) as endpoint:
        assert endpoint.offers == {"chat"}


async def test_azures_deployment_is_in_the_path_and_its_version_in_the_query(tmp_path, stand_in) -> None:
    how = deployment(f"provider: azure, base_url: '{stand_in.root}/openai', api_version: 2024-10-21")
    async with borrow(tmp_path, how, AZURE_OPENAI_API_KEY=KEY) as endpoint:
        await ask_one(tmp_path, endpoint)
    last = stand_in.seen()[-1]
    assert (last["path"], last["query"]) == ("/openai/deployments/mock/chat/completions", "api-version=2024-10-21")
    assert last["headers"]["api-key"] == KEY
    assert "authorization" not in last["headers"]


async def test_openai_is_asked_for_max_completion_tokens(tmp_path, stand_in) -> None:
    how = deployment(f"provider: openai, base_url: '{stand_in.root}/v1'")
    async with borrow(tmp_path, how, OPENAI_API_KEY=KEY) as endpoint:
        await ask_one(tmp_path, endpoint, max_tokens=64)
    canary, question = (one["body"] for one in stand_in.seen())
    assert (canary["max_completion_tokens"], question["max_completion_tokens"]) == (1, 64)
    assert "max_tokens" not in {**canary, **question}


async def test_a_parameter_that_is_renamed_to_null_is_not_sent(tmp_path, stand_in) -> None:
    how = deployment(f"provider: openai, base_url: '{stand_in.root}/v1', renames: {{temperature: null}}")
    async with borrow(tmp_path, how, OPENAI_API_KEY=KEY) as endpoint:
        await ask_one(tmp_path, endpoint, temperature=0.0, top_p=0.9)
    body = stand_in.seen()[-1]["body"]
    assert sorted(body) == ["messages", "model", "top_p"]


async def test_what_a_provider_fills_in_can_be_overridden(tmp_path, stand_in) -> None:
    stand_in.set(key_header="x-gateway-key", key=f"Key {KEY}")
    how = deployment(
        f"provider: openai, base_url: '{stand_in.root}/v1', api_key_env: MINE, api_key_header: X-Gateway-Key, "
        f"api_key_prefix: 'Key ', headers: {{X-Team: evals}}, renames: {{max_tokens: max_tokens}}"
    )
    async with borrow(tmp_path, how, MINE=KEY) as endpoint:
        await ask_one(tmp_path, endpoint, max_tokens=64)
    last = stand_in.seen()[-1]
    assert (last["headers"]["x-team"], last["body"]["max_tokens"]) == ("evals", 64)


async def test_an_explicit_null_sends_no_key(tmp_path, stand_in) -> None:
    how = deployment(f"provider: nvidia, base_url: '{stand_in.root}/v1', api_key_env: null")
    async with borrow(tmp_path, how):
        pass
    assert "authorization" not in stand_in.seen()[-1]["headers"]


# several addresses


async def test_every_address_must_serve_the_model(tmp_path, stand_in, faulty) -> None:
    faulty.set(model="another")
    how = deployment(f"base_urls: ['{stand_in.root}/v1', '{faulty.url}']")
    with pytest.raises(WrongModelError, match=f"{faulty.url} serves another"):
        async with borrow(tmp_path, how):
            pass


async def test_every_address_is_asked_before_the_first_question(tmp_path, stand_in, faulty) -> None:
    faulty.set(model="mock")
    how = deployment(f"base_urls: ['{stand_in.root}/v1', '{faulty.url}']")
    async with borrow(tmp_path, how) as endpoint:
        assert [one.url for one in endpoint.addresses] == [f"{stand_in.root}/v1", faulty.url]
        assert endpoint.offers == {"chat"}
    assert (len(stand_in.seen()), faulty.stats()["requests"]) == (1, 1)


@pytest.mark.slow
async def test_an_address_that_does_not_answer_is_named(tmp_path, stand_in) -> None:
    how = deployment(f"base_urls: ['{stand_in.root}/v1', 'http://127.0.0.1:9/v1']")
    with pytest.raises(ServingError, match=r"127\.0\.0\.1:9"):
        async with borrow(tmp_path, how):
            pass
