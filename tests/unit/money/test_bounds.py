from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.bounds import (
    CacheWrites,
    affordable_output_tokens,
    cache_writes,
    call_bound_nusd,
    json_bytes,
    prompt_bound_tokens,
    prompt_bound_tokens_after,
    started_bound_nusd,
    why_unbounded,
)
from worker.core.prices import Price, Rates, cost_nusd, known_models, price_of
from worker.core.values import Usage


@st.composite
def odd_prices(draw: st.DrawFn) -> Price:
    """Prices that no model has: no rate is a whole number of nano-dollars."""
    input_pusd = draw(st.integers(1, 10_000_000))

    rates = Rates(
        input_pusd=input_pusd,
        output_pusd=draw(st.integers(1, 50_000_000)),
        cache_write_5m_pusd=draw(st.integers(input_pusd, 20_000_000)),
        cache_write_1h_pusd=draw(st.integers(input_pusd, 20_000_000)),
        cache_read_pusd=draw(st.integers(0, input_pusd)),
    )
    return Price(model="odd", rates=rates, min_cacheable_tokens=1)


#: The one model with two prices comes up often.
PRICES = (
    st.sampled_from(known_models()).map(price_of)
    | st.just(price_of("claude-haiku-5-5"))
    | odd_prices()
)
TOKENS = st.integers(0, 200_000)
WRITES = st.builds(CacheWrites, has_5m=st.booleans(), has_1h=st.booleans())


@st.composite
def allowed_usages(
    draw: st.DrawFn, prompt_tokens: int, max_tokens: int, writes: CacheWrites
) -> Usage:
    """Any usage that the preconditions allow."""
    left = draw(st.just(prompt_tokens) | st.integers(0, prompt_tokens))
    parts: list[int] = []
    for allowed in (writes.has_5m, writes.has_1h, True):
        part = draw(st.integers(0, left)) if allowed else 0
        parts.append(part)
        left -= part
    return Usage(
        input_tokens=left,
        cache_write_5m_tokens=parts[0],
        cache_write_1h_tokens=parts[1],
        cache_read_tokens=parts[2],
        output_tokens=draw(st.just(max_tokens) | st.integers(0, max_tokens)),
    )


def bound_of(price: Price, prompt: int, output: int, writes: CacheWrites) -> int:
    return call_bound_nusd(price, prompt, output, has_5m=writes.has_5m, has_1h=writes.has_1h)


@given(st.data(), PRICES, TOKENS, TOKENS, WRITES)
def test_no_usage_that_the_preconditions_allow_costs_more_than_the_bound(
    data: st.DataObject, price: Price, prompt: int, output: int, writes: CacheWrites
) -> None:
    usage = data.draw(allowed_usages(prompt, output, writes))

    assert cost_nusd(price, usage) <= bound_of(price, prompt, output, writes)


@given(st.data(), PRICES, TOKENS, TOKENS, WRITES)
def test_the_bound_of_a_call_that_began_lies_between_its_cost_and_the_first_bound(
    data: st.DataObject, price: Price, prompt: int, output: int, writes: CacheWrites
) -> None:
    usage = data.draw(allowed_usages(prompt, output, writes))

    started = started_bound_nusd(price, usage, output)

    assert cost_nusd(price, usage) <= started <= bound_of(price, prompt, output, writes)


@given(PRICES, TOKENS, st.integers(0, 20_000_000_000), WRITES)
def test_the_affordable_output_fits_and_one_token_more_does_not(
    price: Price, prompt: int, free: int, writes: CacheWrites
) -> None:
    fits = affordable_output_tokens(price, prompt, free, has_5m=writes.has_5m, has_1h=writes.has_1h)

    assert bound_of(price, prompt, fits + 1, writes) > free
    if fits > 0:
        assert bound_of(price, prompt, fits, writes) <= free


@given(PRICES, TOKENS, TOKENS, TOKENS, TOKENS)
def test_a_bound_grows_with_the_prompt_and_with_the_output(
    price: Price, prompt: int, more_prompt: int, output: int, more_output: int
) -> None:
    small = call_bound_nusd(price, prompt, output, has_5m=True, has_1h=False)

    large = call_bound_nusd(
        price, prompt + more_prompt, output + more_output, has_5m=True, has_1h=True
    )

    assert small <= large


def test_a_bound_is_computed_by_hand() -> None:
    price = price_of("claude-opus-4-6")

    # 10,000 x $6.25 (5m write) + 4,096 x $25, per million
    assert call_bound_nusd(price, 10_000, 4_096, has_5m=True, has_1h=False) == 164_900_000
    # the 1h write costs $10
    assert call_bound_nusd(price, 10_000, 4_096, has_5m=True, has_1h=True) == 202_400_000
    # no breakpoint, no write: $5
    assert call_bound_nusd(price, 10_000, 4_096, has_5m=False, has_1h=False) == 152_400_000


def test_a_prompt_whose_bound_is_long_is_priced_as_long() -> None:
    price = price_of("claude-haiku-5-5")

    # 100,000 x $0.10 + 1,000 x $0.50, then 100,001 x $0.50 + 1,000 x $2.50, per million
    assert call_bound_nusd(price, 100_000, 1_000, has_5m=False, has_1h=False) == 10_500_000
    assert call_bound_nusd(price, 100_001, 1_000, has_5m=False, has_1h=False) == 52_500_500
    assert affordable_output_tokens(price, 100_001, 52_500_500, has_5m=False, has_1h=False) == 1_000


# ----------------------------------------------------------------------------------------- tokens


@given(st.text(st.characters(codec=None)))
def test_a_prompt_has_no_more_tokens_than_its_texts_have_bytes(text: str) -> None:
    block = {"type": "text", "text": text}

    assert json_bytes([block]) >= len(text.encode("utf-8", "surrogatepass"))
    assert prompt_bound_tokens(json_bytes([block])) == json_bytes([block]) + 1024


def test_a_later_prompt_is_the_last_one_the_reply_and_what_is_new() -> None:
    previous = Usage(
        input_tokens=10,
        cache_write_5m_tokens=200,
        cache_write_1h_tokens=3_000,
        cache_read_tokens=40_000,
        output_tokens=500,
    )

    # 43,210 prompt + 500 output + 1,000 bytes + 2 blocks x 16 + 256
    assert prompt_bound_tokens_after(previous, 1_000, 2) == 44_998


# ---------------------------------------------------------------------------------- preconditions

TEXT = {"type": "text", "text": "hello"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


def user(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def test_text_and_tools_of_ours_have_a_bound() -> None:
    messages = [
        {"role": "user", "content": "plain"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "s"}]},
        *user({"type": "tool_result", "tool_use_id": "t", "content": [TEXT]}),
    ]
    tools: list[dict[str, Any]] = [
        {"name": "ours", "input_schema": {}},
        {"type": "custom", "name": "ours too"},
    ]

    assert why_unbounded(system=[TEXT], messages=messages, tools=tools) is None


@pytest.mark.parametrize(
    ("messages", "tools", "named"),
    [
        (user(IMAGE), [], "image"),
        (user({"type": "tool_result", "tool_use_id": "t", "content": [TEXT, IMAGE]}), [], "image"),
        (user({"type": "document", "source": {}}), [], "document"),
        (user({"text": "no type"}), [], "None"),
        (user(TEXT), [{"type": "web_search_20250305", "name": "web_search"}], "web_search"),
    ],
)
def test_what_bytes_cannot_bound_is_named(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]], named: str
) -> None:
    reason = why_unbounded(system=[], messages=messages, tools=tools)

    assert reason is not None
    assert named in reason


@pytest.mark.parametrize(
    ("control", "writes"),
    [
        (None, CacheWrites()),
        ({"type": "ephemeral"}, CacheWrites(has_5m=True)),
        ({"type": "ephemeral", "ttl": "5m"}, CacheWrites(has_5m=True)),
        ({"type": "ephemeral", "ttl": "1h"}, CacheWrites(has_1h=True)),
    ],
)
@pytest.mark.parametrize("place", ["system", "message", "tool result", "tool"])
def test_a_breakpoint_is_found_wherever_it_stands(
    place: str, control: dict[str, str] | None, writes: CacheWrites
) -> None:
    marked = {**TEXT, "cache_control": control}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [marked]}

    found = cache_writes(
        system=[marked] if place == "system" else [],
        messages=user(*{"message": [marked], "tool result": [result]}.get(place, [])),
        tools=[{"name": "t", "cache_control": control}] if place == "tool" else [],
    )

    assert found == writes
