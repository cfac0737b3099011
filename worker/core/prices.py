"""What a token costs, per model, in whole pico-dollars.

Rule: a call is priced from this table or not made at all. A row is added on the day it comes into
force and never changed: an old bill is computed again from the row of its day.

List prices at standard speed, `inference_geo` "global" and no batch. One dollar per million tokens
is 1,000,000 pico-dollars a token, so `5_000_000` reads as $5.00 per million. Sums are pico-dollars;
the ledger counts nano-dollars, rounded up once per call.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from worker.errors import UnknownModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.core.values import Usage

__all__ = [
    "PRICE_VERSION",
    "Price",
    "Rates",
    "price_of",
    "price_or_none",
    "known_models",
    "cost_nusd",
    "halved",
    "nusd",
    "usd",
]

#: The table's day and edition; it stands in every reservation that was priced from it.
PRICE_VERSION = "2026-11-22.1"

_PICO_PER_NANO = 1_000
_NANO_PER_DOLLAR = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Pico-dollars a token, by what was done with it."""

    input_pusd: int
    #: Everything generated, thinking included.
    output_pusd: int
    cache_write_5m_pusd: int
    cache_write_1h_pusd: int
    cache_read_pusd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One model's rates from a day on."""

    model: str
    rates: Rates
    #: A shorter prompt prefix is silently not cached.
    min_cacheable_tokens: int
    #: ISO day on which the rates came into force; empty: since the model came out.
    since_day: str = ""
    #: A prompt of more tokens than this, cached or not, is billed at `long_rates` throughout,
    #: output included. None: one rate for every length.
    long_above_tokens: int | None = None
    long_rates: Rates | None = None

    def rates_at(self, prompt_tokens: int) -> Rates:
        """Return the rates of a call with a prompt of this length."""
        if self.long_above_tokens is None or self.long_rates is None:
            return self.rates
        return self.long_rates if prompt_tokens > self.long_above_tokens else self.rates


def price_of(model: str, *, day: str | None = None) -> Price:
    """Return the price of `model` in force on `day` (ISO, UTC); the newest where `day` is None.

    Raises:
        UnknownModel: There is no such price. Nothing may be spent on it.
    """
    rows = _TABLE.get(_DATED.get(model, model))
    if rows is None:
        raise UnknownModel(
            f"there is no price for the model {model!r}; known are {', '.join(known_models())}",
            model=model,
            known=known_models(),
        )
    in_force = [row for row in rows if day is None or row.since_day <= day]
    if not in_force:
        raise UnknownModel(
            f"there is no price for the model {model!r} on {day!r}, only since "
            f"{rows[0].since_day!r}",
            model=model,
            day=day,
        )
    return in_force[-1]


def price_or_none(model: str) -> Price | None:
    """Return the newest price of `model`, None where it has none."""
    try:
        return price_of(model)
    except UnknownModel:
        return None


def known_models() -> tuple[str, ...]:
    """Return every name that has a price, sorted."""
    return tuple(sorted((*_TABLE, *_DATED)))


def cost_nusd(price: Price, usage: Usage) -> int:
    """Return what a call cost, in nano-dollars, rounded up."""
    rates = price.rates_at(usage.prompt_tokens)
    picos = (
        usage.input_tokens * rates.input_pusd
        + usage.output_tokens * rates.output_pusd
        + usage.cache_write_5m_tokens * rates.cache_write_5m_pusd
        + usage.cache_write_1h_tokens * rates.cache_write_1h_pusd
        + usage.cache_read_tokens * rates.cache_read_pusd
    )
    return -(-picos // _PICO_PER_NANO)


def halved(price: Price) -> Price:
    """Return what the same model costs in a batch: half, of every class of token, exactly."""
    long_rates = None if price.long_rates is None else _half(price.long_rates)
    return replace(price, rates=_half(price.rates), long_rates=long_rates)


def _half(rates: Rates) -> Rates:
    halves: dict[str, int] = {}
    for each in fields(Rates):
        halves[each.name], rest = divmod(getattr(rates, each.name), 2)
        assert rest == 0, "every rate of the table is an even number of pico-dollars"
    return Rates(**halves)


def nusd(dollars: float) -> int:
    """Return dollars of a setting or a command line as whole nano-dollars, the nearest."""
    return round(dollars * _NANO_PER_DOLLAR)


def usd(nusd: int) -> str:
    """Return nano-dollars as exact text for people: `$1.25`, `$0.000000001`, `-$3.00`."""
    dollars, rest = divmod(abs(nusd), _NANO_PER_DOLLAR)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nusd < 0 else ''}${dollars}.{decimals}"


# ------------------------------------------------------------------------------------------ table

_FABLE_5_2 = Rates(
    input_pusd=8_000_000,
    output_pusd=40_000_000,
    cache_write_5m_pusd=10_000_000,
    cache_write_1h_pusd=16_000_000,
    cache_read_pusd=200_000,
)
_FABLE_5_1 = Rates(
    input_pusd=10_000_000,
    output_pusd=50_000_000,
    cache_write_5m_pusd=12_500_000,
    cache_write_1h_pusd=20_000_000,
    cache_read_pusd=250_000,
)
_OPUS_5_5 = Rates(
    input_pusd=4_000_000,
    output_pusd=20_000_000,
    cache_write_5m_pusd=5_000_000,
    cache_write_1h_pusd=8_000_000,
    cache_read_pusd=200_000,
)
#: Opus 4.5 to 5.
_OPUS = Rates(
    input_pusd=5_000_000,
    output_pusd=25_000_000,
    cache_write_5m_pusd=6_250_000,
    cache_write_1h_pusd=10_000_000,
    cache_read_pusd=500_000,
)
_SONNET_5 = Rates(
    input_pusd=2_000_000,
    output_pusd=10_000_000,
    cache_write_5m_pusd=2_500_000,
    cache_write_1h_pusd=4_000_000,
    cache_read_pusd=200_000,
)
_SONNET_5_5 = Rates(
    input_pusd=2_000_000,
    output_pusd=10_000_000,
    cache_write_5m_pusd=2_500_000,
    cache_write_1h_pusd=4_000_000,
    cache_read_pusd=100_000,
)
_HAIKU_5_5 = Rates(
    input_pusd=100_000,
    output_pusd=500_000,
    cache_write_5m_pusd=125_000,
    cache_write_1h_pusd=200_000,
    cache_read_pusd=10_000,
)
_HAIKU_5_5_LONG = Rates(
    input_pusd=500_000,
    output_pusd=2_500_000,
    cache_write_5m_pusd=625_000,
    cache_write_1h_pusd=1_000_000,
    cache_read_pusd=50_000,
)
_HAIKU_4_5 = Rates(
    input_pusd=1_000_000,
    output_pusd=5_000_000,
    cache_write_5m_pusd=1_250_000,
    cache_write_1h_pusd=2_000_000,
    cache_read_pusd=100_000,
)

#: Oldest row first.
_ROWS = (
    Price(model="claude-fable-5-2", rates=_FABLE_5_2, min_cacheable_tokens=512),
    Price(model="claude-fable-5-1", rates=_FABLE_5_1, min_cacheable_tokens=512),
    Price(model="claude-opus-5-5", rates=_OPUS_5_5, min_cacheable_tokens=512),
    Price(model="claude-opus-5", rates=_OPUS, min_cacheable_tokens=512),
    Price(model="claude-opus-4-8", rates=_OPUS, min_cacheable_tokens=1024),
    Price(model="claude-opus-4-7", rates=_OPUS, min_cacheable_tokens=2048),
    # Long prompts cost more before this day; nothing of ours was billed then.
    Price(model="claude-opus-4-6", rates=_OPUS, min_cacheable_tokens=4096, since_day="2026-03-13"),
    Price(model="claude-opus-4-5", rates=_OPUS, min_cacheable_tokens=4096),
    Price(model="claude-sonnet-5-5", rates=_SONNET_5, min_cacheable_tokens=512),
    Price(
        model="claude-sonnet-5-5",
        rates=_SONNET_5_5,
        min_cacheable_tokens=512,
        since_day="2026-10-07",
    ),
    Price(model="claude-sonnet-5", rates=_SONNET_5, min_cacheable_tokens=1024),
    Price(
        model="claude-haiku-5-5",
        rates=_HAIKU_5_5,
        min_cacheable_tokens=512,
        long_above_tokens=100_000,
        long_rates=_HAIKU_5_5_LONG,
    ),
    Price(model="claude-haiku-4-5", rates=_HAIKU_4_5, min_cacheable_tokens=4096),
)

#: Names of frozen snapshots, as the provider's SDK lists them. No pattern: a name that nobody
#: looked at has no price.
_DATED: Mapping[str, str] = {
    "claude-haiku-4-5-20251001": "claude-haiku-4-5",
    "claude-opus-4-5-20251101": "claude-opus-4-5",
}


def _by_model(rows: tuple[Price, ...]) -> Mapping[str, tuple[Price, ...]]:
    models = dict.fromkeys(row.model for row in rows)
    return {model: tuple(row for row in rows if row.model == model) for model in models}


_TABLE = _by_model(_ROWS)
