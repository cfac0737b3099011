from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.batches import (
    ASKED_AT_MOST_MS,
    Answered,
    Next,
    custom_id,
    fate_of,
    is_batched,
    next_of,
    poll_ms,
)
from worker.core.prices import cost_nusd, halved, known_models, price_of
from worker.core.values import Usage
from worker.ports import EntryState

TOKENS = st.integers(0, 2_000_000)
USAGES = st.builds(Usage, **dict.fromkeys(Usage.__dataclass_fields__, TOKENS))


@given(st.sampled_from(known_models()), USAGES)
def test_half_the_price_is_exact_and_rounded_up_once(model: str, usage: Usage) -> None:
    rates = price_of(model).rates_at(usage.prompt_tokens)
    picos = (
        usage.input_tokens * rates.input_pusd
        + usage.output_tokens * rates.output_pusd
        + usage.cache_write_5m_tokens * rates.cache_write_5m_pusd
        + usage.cache_write_1h_tokens * rates.cache_write_1h_pusd
        + usage.cache_read_tokens * rates.cache_read_pusd
    )

    assert cost_nusd(halved(price_of(model)), usage) == -(-picos // 2_000)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(100, 60_000))
def test_pauses_grow_from_the_first_to_ten_of_it(one: int, other: int, first_ms: int) -> None:
    shorter, longer = (poll_ms(waited, first_ms=first_ms) for waited in sorted((one, other)))

    assert first_ms <= shorter <= longer <= 10 * first_ms


def test_a_batch_of_a_day_is_asked_about_some_three_hundred_times() -> None:
    asked, waited_ms = 0, 0

    while waited_ms < ASKED_AT_MOST_MS:
        waited_ms += poll_ms(waited_ms, first_ms=30_000)
        asked += 1

    assert asked < 330


@given(st.text(max_size=255))
def test_a_call_has_a_name_that_the_provider_takes(reservation: str) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", custom_id(reservation))


def test_two_calls_have_two_names() -> None:
    assert custom_id("s/judge/1.0.0/1.1-batch") != custom_id("s/judge/1.0.0/2.1-batch")


@pytest.mark.parametrize(
    ("state", "unknown", "known"),
    [
        (None, Next.BUY, Next.BUY),
        ("held", Next.DROP, Next.DROP),
        ("sent", Next.FIND, Next.ASK),
        ("expired", Next.FIND, Next.ASK),
        ("settled", Next.FIND, Next.ASK),
        ("void", Next.BUY, Next.ALONE),
        ("refunded", Next.ALONE, Next.ALONE),
    ],
)
def test_what_is_next_follows_from_the_newest_reservation(
    state: str | None, unknown: Next, known: Next
) -> None:
    assert next_of(state, batch_id="") is unknown
    assert next_of(state, batch_id="msgbatch_1") is known


def test_nothing_that_may_be_billed_is_bought_again() -> None:
    for state in EntryState:
        if state not in {EntryState.VOID, EntryState.HELD}:
            assert Next.BUY not in {next_of(state.value, batch_id=one) for one in ("", "b")}


def test_only_what_succeeded_is_billed() -> None:
    assert {one for one in Answered if fate_of(one) == "settle"} == {Answered.SUCCEEDED}


def test_kinds_say_what_was_batched() -> None:
    assert is_batched("judge_batch")
    assert is_batched("extract_batch")
    assert not is_batched("judge")
