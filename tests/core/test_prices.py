"""`prices` and daily budgets in `evals.yaml`: what they mean, and how their mistakes are told."""

from pathlib import Path

import pytest

from eval_pipelines.config import Config
from eval_pipelines.config.prices import CURRENCIES, UNITS, Price, Prices, in_words
from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.backends import Binding
from eval_pipelines.serving.binding import bound_endpoint

pytestmark = pytest.mark.unit

GOOD = """
prices:
  currency: EUR
  per_million_tokens:
    gpt-4.1*: {prompt: 2, completion: 8}
    gpt-4.1-mini*: {prompt: 0.4, completion: 1.6, cached_prompt: 0.1}
    gpt-4.1-mini-2025-04-14: {prompt: 0.15, completion: 0.6}
    "*/llama": {prompt: 0, completion: 0}
deployments:
  openai: {backend: hosted, base_url: "https://api.example.com/v1", api_key_env: KEY, daily_cost: 12.5}
  local: {backend: embedded, daily_tokens: 1000000}
models:
  gpt@a: {deployment: openai, served_name: gpt-4.1}
"""


def parse(text: str) -> Config:
    return Config.parse(text, path=Path("evals.yaml"))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [line.removeprefix("evals.yaml:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("served_name", "prompt"),
    [
        ("gpt-4.1-mini-2025-04-14", 0.15),
        ("gpt-4.1-mini", 0.4),
        ("gpt-4.1-nano", 2),
        ("meta/llama", 0),
        ("meta/llama-3", None),
        ("GPT-4.1", None),
        ("gpt-4x1", None),
    ],
)
def test_the_most_exact_name_counts(served_name, prompt) -> None:
    price = parse(GOOD).prices.of(served_name)
    assert (price and price.prompt) == prompt


def test_of_two_equally_exact_patterns_the_first_counts() -> None:
    one, other = Price(prompt=1, completion=1), Price(prompt=2, completion=2)
    assert Prices(per_million_tokens={"ab*": one, "a*c": other}).of("abc") == one
    assert Prices(per_million_tokens={"a*c": other, "ab*": one}).of("abc") == other


def test_a_currency_is_named_once_and_is_dollars_by_default() -> None:
    assert (parse(GOOD).prices.currency, parse("prices: {}").prices.currency) == ("EUR", "USD")
    assert len(CURRENCIES) > 150


def test_sums_of_money_are_exact() -> None:
    """In floats ten times 0.1 is not 1."""
    price = Price(prompt=0.1, completion=0.000001)
    assert sum(price.cost(1, 0) for _ in range(10**4)) == price.cost(10**4, 0) == UNITS // 1000
    assert price.cost(0, 10**12) == UNITS


def test_cached_tokens_are_part_of_the_prompt() -> None:
    price = Price(prompt=10, completion=1, cached_prompt=1)
    assert price.cost(100, 0, 40) == (60 * 10 + 40) * 10**6
    assert price.cost(100, 0, 400) == 100 * 10**6
    assert Price(prompt=10, completion=1).cost(100, 0, 40) == 1000 * 10**6


@pytest.mark.parametrize(
    ("cost", "words"),
    [(0, "0.0000 USD"), (0.01234, "0.0123 USD"), (1234.5, "1,234.5000 USD"), (0.0000123, "0.00001230 USD")],
)
def test_an_amount_is_told_with_its_currency(cost, words) -> None:
    assert in_words(cost, "USD") == words


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prices: [1]", "1: prices: must be a mapping of names to values, not a list"),
        ("prices: {a: {prompt: 1}}", "1: prices.a: unknown key. Known: currency, per_million_tokens."),
        (
            "prices: {currency: usd}",
            "1: prices.currency: must be the ISO 4217 code of a currency, such as USD or EUR. Did you mean 'USD'?",
        ),
        (
            "prices: {per_million_tokens: {a: {prompt: 1}}}",
            "1: prices.per_million_tokens.a.completion: required, but missing",
        ),
        (
            "prices: {per_million_tokens: {a: {prompt: -1, completion: 1}}}",
            "1: prices.per_million_tokens.a.prompt: must be at least 0, not -1",
        ),
        (
            "prices: {per_million_tokens: {a: {prompt: 1, completion: 1, cache: 1}}}",
            "1: prices.per_million_tokens.a.cache: unknown key. Known: cached_prompt, completion, prompt.",
        ),
        (
            "prices: {per_million_tokens: {a: {prompt: 1e-7, completion: 1}}}",
            "1: prices.per_million_tokens.a.prompt: a price has at most six decimals; it is per million tokens",
        ),
        (
            "prices: {per_million_tokens: {a: {prompt: 1, completion: 1, cached_prompt: 2}}}",
            "1: prices.per_million_tokens.a: cached_prompt is more than prompt, which is 1",
        ),
        (
            "deployments: {a: {backend: embedded, daily_tokens: 0}}",
            "1: deployments.a.daily_tokens: must be at least 1, not 0",
        ),
        (
            "deployments: {a: {backend: embedded, daily_cost: .nan}}",
            "1: deployments.a.daily_cost: must be a finite number, not nan",
        ),
        (
            GOOD.replace("served_name: gpt-4.1", "served_name: o3"),
            "13: models.gpt@a: 'openai' has a daily_cost, and prices.per_million_tokens has no price for 'o3'",
        ),
        (
            GOOD.replace(", served_name: gpt-4.1", ""),
            "13: models.gpt@a: 'openai' has a daily_cost, and prices.per_million_tokens has no price for 'gpt@a'",
        ),
    ],
)
def test_a_mistake_is_told_with_what_would_be_right(text, problem) -> None:
    assert problem in problems(text)


def test_prices_that_are_wrong_are_not_also_called_missing() -> None:
    assert len(problems(GOOD.replace("prompt: 2", "prompt: -2"))) == 1


def test_an_endpoint_knows_its_price_and_its_budget() -> None:
    config = parse(GOOD)
    hosted = config.deployment("openai").paying("gpt-4.1", "https://api.example.com/v1", "KEY")
    assert (hosted["price"].prompt, hosted["currency"], hosted["daily_budget"].cost) == (2, "EUR", 25 * UNITS // 2)
    assert hosted["daily_budget"].account == "https://api.example.com/v1 with the key in KEY"
    local = config.deployment("local").paying("smol@main")
    assert (local["price"], local["daily_budget"].account, local["daily_budget"].tokens) == (
        None,
        "servers of local",
        1_000_000,
    )
    assert parse("deployments: {a: {backend: embedded}}").deployment("a").paying("m")["daily_budget"] is None


def test_a_model_without_a_price_is_refused_where_money_is_limited_before_anything_is_asked() -> None:
    deployment = parse(GOOD).deployment("openai")
    binding = Binding(urls=("https://api.example.com/v1",), served_name="o3")
    with pytest.raises(ConfigError, match=r"'openai' has a daily_cost, and there is no price for 'o3'\. Add it in"):
        bound_endpoint(binding, deployment, {}, Path("nowhere"))


def test_another_budget_or_price_needs_no_other_server() -> None:
    """A server's identity is what its deployment dumps to."""
    before = parse(GOOD)
    after = parse(GOOD.replace("1000000", "2000000").replace("12.5", "20").replace("prompt: 2", "prompt: 3"))
    for name in ("openai", "local"):
        assert before.deployment(name).model_dump() == after.deployment(name).model_dump()
