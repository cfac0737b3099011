from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_CEILING

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.prices import PRICE_VERSION, Price, Rates, cost_nusd, known_models, price_of, usd
from worker.core.values import Usage
from worker.errors import UnknownModel

TABLE_DAY = PRICE_VERSION.split(".", maxsplit=1)[0]
TOKENS = st.integers(0, 300_000)
USAGES = st.builds(
    Usage,
    input_tokens=TOKENS,
    cache_write_5m_tokens=TOKENS,
    cache_write_1h_tokens=TOKENS,
    cache_read_tokens=TOKENS,
    output_tokens=TOKENS,
)


def rows() -> list[Price]:
    return [price_of(model) for model in known_models()]


@given(st.sampled_from(known_models()), USAGES)
def test_every_model_costs_what_genai_prices_says_on_the_day_of_the_table(
    model: str, usage: Usage
) -> None:
    theirs = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.prompt_tokens,
            cache_write_tokens=usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            output_tokens=usage.output_tokens,
        ),
        model,
        provider_id="anthropic",
        genai_request_timestamp=datetime.fromisoformat(TABLE_DAY).replace(tzinfo=UTC),
    )

    ours = cost_nusd(price_of(model, day=TABLE_DAY), usage)

    assert ours == int((theirs.total_price * 10**9).to_integral_value(ROUND_CEILING))


@given(st.tuples(*[st.integers(1, 999)] * 5), USAGES)
def test_a_cost_is_rounded_up_to_the_next_nano_dollar(rates: tuple[int, ...], usage: Usage) -> None:
    price = Price(
        model="odd",
        rates=Rates(
            input_pusd=rates[0],
            output_pusd=rates[1],
            cache_write_5m_pusd=rates[2],
            cache_write_1h_pusd=rates[3],
            cache_read_pusd=rates[4],
        ),
        min_cacheable_tokens=1,
    )
    exact_pusd = (
        usage.input_tokens * rates[0]
        + usage.output_tokens * rates[1]
        + usage.cache_write_5m_tokens * rates[2]
        + usage.cache_write_1h_tokens * rates[3]
        + usage.cache_read_tokens * rates[4]
    )

    assert 0 <= cost_nusd(price, usage) * 1000 - exact_pusd < 1000


def test_a_call_is_priced_by_hand() -> None:
    usage = Usage(
        input_tokens=100,
        cache_write_5m_tokens=2_000,
        cache_write_1h_tokens=3_000,
        cache_read_tokens=40_000,
        output_tokens=500,
    )

    # 100 x $5 + 2000 x $6.25 + 3000 x $10 + 40000 x $0.50 + 500 x $25, per million
    assert cost_nusd(price_of("claude-opus-4-6"), usage) == 75_500_000


def test_the_smallest_rates_are_whole_nano_dollars() -> None:
    price = price_of("claude-haiku-5-5")

    assert cost_nusd(price, Usage(cache_write_5m_tokens=1)) == 125
    assert cost_nusd(price, Usage(cache_read_tokens=1)) == 10
    assert cost_nusd(price, Usage()) == 0


def test_one_token_above_the_long_prompt_limit_makes_every_token_dearer() -> None:
    price = price_of("claude-haiku-5-5")
    at = Usage(input_tokens=60_000, cache_read_tokens=40_000, output_tokens=1_000)
    above = Usage(input_tokens=60_000, cache_read_tokens=40_001, output_tokens=1_000)

    assert cost_nusd(price, at) == 60_000 * 100 + 40_000 * 10 + 1_000 * 500
    assert cost_nusd(price, above) == 60_000 * 500 + 40_001 * 50 + 1_000 * 2_500


def test_the_output_does_not_count_towards_a_long_prompt() -> None:
    usage = Usage(input_tokens=100_000, output_tokens=50_000)

    assert cost_nusd(price_of("claude-haiku-5-5"), usage) == 100_000 * 100 + 50_000 * 500


@pytest.mark.parametrize(
    ("day", "read_pusd"),
    [("2026-09-01", 200_000), ("2026-10-06", 200_000), ("2026-10-07", 100_000), (None, 100_000)],
)
def test_an_old_day_has_its_old_price(day: str | None, read_pusd: int) -> None:
    assert price_of("claude-sonnet-5-5", day=day).rates.cache_read_pusd == read_pusd


def test_a_day_before_the_first_price_has_none() -> None:
    with pytest.raises(UnknownModel, match="2026-03-12"):
        price_of("claude-opus-4-6", day="2026-03-12")


def test_a_snapshot_is_priced_as_its_model() -> None:
    assert price_of("claude-opus-4-5-20251101") == price_of("claude-opus-4-5")


@pytest.mark.parametrize(
    "model", ["gpt-4o", "", "claude-opus-4-6 ", "Claude-Opus-4-6", "claude-opus-5-20270101"]
)
def test_a_model_that_nobody_priced_is_refused_with_those_that_are_known(model: str) -> None:
    with pytest.raises(UnknownModel, match="claude-opus-4-6") as refusal:
        price_of(model)

    assert refusal.value.facts["model"] == model


@pytest.mark.parametrize("price", rows(), ids=known_models())
def test_cache_writes_cost_five_quarters_and_twice_the_input(price: Price) -> None:
    for rates in (price.rates, price.long_rates or price.rates):
        assert rates.cache_write_5m_pusd * 4 == rates.input_pusd * 5
        assert rates.cache_write_1h_pusd == rates.input_pusd * 2
        assert rates.cache_read_pusd * 10 <= rates.input_pusd
        assert rates.output_pusd == rates.input_pusd * 5


@pytest.mark.parametrize("price", rows(), ids=known_models())
def test_a_long_prompt_is_never_cheaper(price: Price) -> None:
    if price.long_rates is None:
        assert price.long_above_tokens is None
        return

    assert price.long_rates.input_pusd >= price.rates.input_pusd
    assert price.long_rates.output_pusd >= price.rates.output_pusd
    assert price.long_rates.cache_write_1h_pusd >= price.rates.cache_write_1h_pusd


@pytest.mark.parametrize(
    ("nusd", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (1_250_000_000, "$1.25"),
        (1_000_000_010, "$1.00000001"),
        (-3_000_000_000, "-$3.00"),
    ],
)
def test_amounts_read_as_exact_dollars(nusd: int, text: str) -> None:
    assert usd(nusd) == text
