"""The provider's bill: exact amounts, rounded up once per request, lines only ever added.

Rule: its prices are its own; the last test holds them against the worker's ledger.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.prices import cost_nusd, known_models, price_of
from worker.core.values import Usage as LedgerUsage
from worker.embedded.teacher.bill import (
    PRICES,
    Bill,
    BillLine,
    Outcome,
    Usage,
    amount_nano_usd,
    amount_pico_usd,
)
from worker.embedded.teacher.catalogue import MODELS

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = st.integers(0, 1_000_000)
USAGES = st.builds(
    Usage,
    input_tokens=TOKENS,
    cache_write_5m_tokens=TOKENS,
    cache_write_1h_tokens=TOKENS,
    cache_read_tokens=TOKENS,
    output_tokens=TOKENS,
)


def line(number: int = 1, amount_nano_usd: int = 0, **fields: Any) -> BillLine:
    values: dict[str, Any] = {
        "sequence_no": number,
        "request_id": f"req_{number}",
        "message_id": "",
        "endpoint": "/v1/messages",
        "kind": "solver",
        "model": "claude-opus-5",
        "usage": Usage(),
        "inference_geo": "global",
        "amount_pico_usd": amount_nano_usd * 1000,
        "amount_nano_usd": amount_nano_usd,
        "outcome": Outcome.COMPLETE,
        "billed": True,
        "http_status": 200,
        "stop_reason": "end_turn",
        "user_id": None,
        "fault": "",
        "received_ms": 1,
        "ended_ms": 2,
    }
    return BillLine(**(values | fields))


@pytest.mark.parametrize(
    ("model", "usage", "usd"),
    [
        # 1000 x $5/M + 100 x $25/M
        ("claude-opus-5", Usage(input_tokens=1000, output_tokens=100), "0.0075"),
        # 1000 x $0.20/M + 10 x $8/M + 1 x $20/M
        (
            "claude-opus-5-5",
            Usage(cache_read_tokens=1000, cache_write_1h_tokens=10, output_tokens=1),
            "0.0003",
        ),
        # 1 x $0.125/M = 125 nano-dollars; 1 x $0.01/M = 10 nano-dollars
        ("claude-haiku-5-5", Usage(cache_write_5m_tokens=1, cache_read_tokens=1), "0.000000135"),
        # Above 100,000 prompt tokens every token costs five times as much, output too.
        ("claude-haiku-5-5", Usage(input_tokens=100_000, output_tokens=10), "0.010005"),
        ("claude-haiku-5-5", Usage(input_tokens=100_001, output_tokens=10), "0.0500255"),
    ],
)
def test_an_amount_is_tokens_times_rates(model: str, usage: Usage, usd: str) -> None:
    assert Fraction(amount_pico_usd(model, usage), 10**12) == Fraction(usd)


def test_us_inference_costs_a_tenth_more_for_every_token() -> None:
    usage = Usage(input_tokens=7, cache_read_tokens=3, output_tokens=1)

    home, us = (
        amount_pico_usd("claude-haiku-5-5", usage, inference_geo=geo) for geo in ("global", "us")
    )

    assert us * 10 == home * 11


@given(st.integers(0, 10**18))
def test_nano_dollars_are_rounded_up_once(pico: int) -> None:
    nano = amount_nano_usd(pico)

    assert pico <= nano * 1000 < pico + 1000


@given(st.sampled_from(sorted(PRICES)), USAGES)
def test_the_ledgers_table_says_the_same(model: str, usage: Usage) -> None:
    ledger = LedgerUsage(
        input_tokens=usage.input_tokens,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        output_tokens=usage.output_tokens,
    )

    billed = amount_nano_usd(amount_pico_usd(model, usage))

    assert billed == cost_nusd(price_of(model), ledger)


def test_every_model_of_the_ledger_has_a_price_a_minimum_and_the_same_one() -> None:
    assert set(PRICES) == set(MODELS) == set(known_models())
    for name, model in MODELS.items():
        assert model.min_cache_tokens == price_of(name).min_cacheable_tokens, name


@given(st.lists(st.integers(0, 10**9), max_size=20))
def test_the_total_is_the_sum_of_the_lines(amounts: list[int]) -> None:
    bill = Bill()
    for number, amount in enumerate(amounts):
        bill.add(line(number, amount))

    assert bill.total_nano_usd == sum(amounts)
    assert [one.sequence_no for one in bill.lines()] == list(range(len(amounts)))


def test_the_file_has_every_line_at_once_and_survives_a_reset(tmp_path: Path) -> None:
    path = tmp_path / "bill.jsonl"
    bill = Bill(path)

    bill.add(line(1, 5, user_id="Zoë"))
    written = path.read_text(encoding="utf-8")
    bill.reset()
    bill.add(line(2, 7))
    bill.close()

    assert json.loads(written) == line(1, 5, user_id="Zoë").as_json()
    rows = [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]
    assert [row.get("sequence_no", row.get("reset")) for row in rows] == [1, True, 2]
    assert [one.sequence_no for one in bill.lines()] == [2]


def test_only_what_was_answered_is_billed() -> None:
    billed = {outcome for outcome in Outcome if outcome.billed}

    assert billed == {Outcome.COMPLETE, Outcome.DISCONNECTED, Outcome.CUT, Outcome.LOST}
