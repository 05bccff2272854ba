"""What `prices` of `evals.yaml` may hold: what tokens cost, by the name that an address knows a model by.

Money is counted in whole numbers, each a 1e-12 of the currency: then a token of any price costs a whole number.
"""

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from eval_pipelines.config.source import near_miss
from eval_pipelines.config.specs import SpecRecord

UNITS = 10**12
_UNITS_PER_TOKEN = UNITS // 10**6  # of a price per million tokens
_SMALLEST = 0.0001

# ISO 4217, without funds, metals and test codes
_CODES = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY COP
CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR
IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU
MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG
SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV
WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CURRENCIES = frozenset(_CODES.split())


class Price(SpecRecord):
    """What the tokens of one model cost, in the currency of `prices`, per million tokens."""

    prompt: float = Field(ge=0, description="Per million prompt tokens.")
    completion: float = Field(ge=0, description="Per million tokens of answers.")
    cached_prompt: float | None = Field(
        default=None, ge=0, description="Per million prompt tokens that the server had in its cache; default: prompt."
    )

    @field_validator("prompt", "completion", "cached_prompt")
    @classmethod
    def _is_exact(cls, price: float | None) -> float | None:
        if price is not None and abs(price * _UNITS_PER_TOKEN - round(price * _UNITS_PER_TOKEN)) > 1e-4:
            raise ValueError("a price has at most six decimals; it is per million tokens")
        return price

    @model_validator(mode="after")
    def _cache_is_cheaper(self) -> Self:
        if self.cached_prompt is not None and self.cached_prompt > self.prompt:
            raise ValueError(f"cached_prompt is more than prompt, which is {self.prompt:g}")
        return self

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_prompt_tokens: int = 0) -> int:
        """What so many tokens cost, in 1e-12 of the currency. The cached ones are part of the prompt's."""
        cached = min(cached_prompt_tokens, prompt_tokens)
        cached_price = self.prompt if self.cached_prompt is None else self.cached_prompt
        counts = ((prompt_tokens - cached, self.prompt), (cached, cached_price), (completion_tokens, self.completion))
        return sum(n * round(price * _UNITS_PER_TOKEN) for n, price in counts)


class Prices(SpecRecord):
    """What tokens cost."""

    currency: str = Field(default="USD", description="ISO 4217 code of the currency of every price and budget here.")
    per_million_tokens: dict[str, Price] = Field(
        default_factory=dict,
        description="Name that an address knows a model by, or a pattern with `*` → its price. The most exact counts.",
    )

    @field_validator("currency")
    @classmethod
    def _is_a_currency(cls, currency: str) -> str:
        if currency not in CURRENCIES:
            guess = near_miss(currency.upper(), CURRENCIES, label="Known")
            raise ValueError(f"must be the ISO 4217 code of a currency, such as USD or EUR. {guess}")
        return currency

    def of(self, served_name: str) -> Price | None:
        """The price of a model: of its very name, else of the pattern with the most letters that fits; None: unknown."""
        table = self.per_million_tokens
        fitting = [name for name in table if name == served_name or _fits(name, served_name)]
        # of two equally exact ones the first in the file
        return table[max(fitting, key=lambda name: _exactness(name, served_name))] if fitting else None


def _fits(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


def _exactness(pattern: str, name: str) -> tuple[bool, int, int]:
    return pattern == name, len(pattern) - pattern.count("*"), -pattern.count("*")


def in_words(cost: float, currency: str) -> str:
    """An amount for people: `0.0123 USD`; what is tiny keeps its first digits."""
    digits = 4 if cost >= _SMALLEST or cost == 0 else 8
    return f"{cost:,.{digits}f} {currency}"
