"""What every ledger does with the reservations of one that was lost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.values import Usage
from worker.errors import BadInput, BudgetDenied
from worker.ledger.memory import MemoryLedger
from worker.ledger.redis import RedisLedger
from worker.ports import Entry, EntryState
from worker.redis_connection import connect
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPES = ("fleet", "tenant:t", "campaign:c", "session:s")
LATER_MS = 600_000
HELD = Entry(
    reservation_id="s/turn/1/1.1",
    state=EntryState.HELD,
    amount_nusd=100,
    actual_nusd=0,
    scopes=SCOPES,
    kind="explore",
    model="claude-opus-4-6",
    step_id="turn/1",
    price_version="2026-11-22.1",
    created_ms=1_600_000_000_000,
)
SETTLED = replace(
    HELD,
    state=EntryState.SETTLED,
    actual_nusd=40,
    usage=Usage(input_tokens=3, output_tokens=4),
    request_id="req_1",
    message_id="msg_1",
)
EXPIRED = replace(HELD, state=EntryState.EXPIRED, actual_nusd=100, why="Redis was lost")
VOID = replace(HELD, state=EntryState.VOID, why="429")

AnyLedger = MemoryLedger | RedisLedger


@pytest.fixture(
    params=[
        "memory",
        pytest.param("valkey", marks=[pytest.mark.integration, pytest.mark.enable_socket]),
    ]
)
def ledger(request: pytest.FixtureRequest) -> Iterator[AnyLedger]:
    """A ledger with the accounts of one session; 1000 in the tightest, the session's."""
    if request.param == "memory":
        yield opened(MemoryLedger(ManualClock()))
        return
    with connect(request.getfixturevalue("redis_url")) as client:
        yield opened(RedisLedger(client))


def opened(ledger: AnyLedger) -> AnyLedger:
    for number, scope in enumerate(reversed(SCOPES)):
        ledger.open_account(scope, 1000 * 10**number)
    return ledger


def money(ledger: AnyLedger, scope: str) -> tuple[int, int, int]:
    """(posted, held, unknown)."""
    account = ledger.account(scope)
    assert account is not None
    return account.posted_nusd, account.held_nusd, account.unknown_nusd


@pytest.mark.parametrize(
    ("entry", "expected"),
    [(HELD, (0, 100, 0)), (SETTLED, (40, 0, 0)), (EXPIRED, (100, 0, 100)), (VOID, (0, 0, 0))],
    ids=lambda value: value.state if isinstance(value, Entry) else "",
)
def test_an_entry_is_put_back_once_as_it_was_in_every_scope(
    ledger: AnyLedger, entry: Entry, expected: tuple[int, int, int]
) -> None:
    assert ledger.restore(entry, deadline_ms=LATER_MS)
    assert not ledger.restore(entry, deadline_ms=LATER_MS)

    assert ledger.entries("s") == (entry,)
    assert {scope: money(ledger, scope) for scope in SCOPES} == dict.fromkeys(SCOPES, expected)


def test_one_that_is_known_stays_as_it_is(ledger: AnyLedger) -> None:
    ledger.restore(SETTLED, deadline_ms=LATER_MS)

    assert not ledger.restore(EXPIRED, deadline_ms=LATER_MS)

    assert ledger.entries("s") == (SETTLED,)
    assert money(ledger, "fleet") == (40, 0, 0)


def test_what_was_sent_must_have_an_outcome(ledger: AnyLedger) -> None:
    with pytest.raises(BadInput, match="restore it as expired"):
        ledger.restore(replace(HELD, state=EntryState.SENT), deadline_ms=LATER_MS)

    assert ledger.entries("s") == ()


def test_an_account_that_is_missing_is_named_and_nothing_is_charged(ledger: AnyLedger) -> None:
    elsewhere = replace(SETTLED, scopes=("fleet", "tenant:other", "session:s"))

    with pytest.raises(BadInput, match="no account 'tenant:other'"):
        ledger.restore(elsewhere, deadline_ms=LATER_MS)

    assert money(ledger, "fleet") == (0, 0, 0)


def test_what_was_spent_is_charged_above_a_cap_too(ledger: AnyLedger) -> None:
    dear = replace(SETTLED, amount_nusd=5_000, actual_nusd=5_000)

    assert ledger.restore(dear, deadline_ms=LATER_MS)

    assert money(ledger, "session:s") == (5_000, 0, 0)


def test_a_hold_that_does_not_fit_is_dropped(ledger: AnyLedger) -> None:
    other = replace(HELD, reservation_id="s/close/1.1", amount_nusd=901)
    ledger.restore(EXPIRED, deadline_ms=LATER_MS)

    assert not ledger.restore(other, deadline_ms=LATER_MS)
    assert ledger.restore(replace(other, amount_nusd=900), deadline_ms=LATER_MS)

    assert money(ledger, "session:s") == (100, 900, 100)


def test_a_restored_hold_ends_at_its_new_deadline(ledger: AnyLedger) -> None:
    ledger.restore(HELD, deadline_ms=0)

    assert ledger.expire_overdue(limit=10) == 1
    assert money(ledger, "fleet") == (0, 0, 0)


def test_a_restored_hold_can_be_sent_and_settled(ledger: AnyLedger) -> None:
    ledger.restore(HELD, deadline_ms=LATER_MS)

    ledger.sent(HELD.reservation_id)
    assert ledger.settle(HELD.reservation_id, 30, usage=Usage())

    assert money(ledger, "session:s") == (30, 0, 0)


def test_a_late_truth_corrects_what_was_charged_as_unknown(ledger: AnyLedger) -> None:
    ledger.restore(EXPIRED, deadline_ms=LATER_MS)

    assert ledger.settle(EXPIRED.reservation_id, 30, usage=Usage())

    assert money(ledger, "fleet") == (30, 0, 0)


def test_nothing_is_sent_again_under_a_restored_id(ledger: AnyLedger) -> None:
    ledger.restore(EXPIRED, deadline_ms=LATER_MS)

    with pytest.raises(BudgetDenied, match="nothing more may be sent"):
        ledger.sent(EXPIRED.reservation_id)


@given(
    st.lists(st.tuples(st.sampled_from([SETTLED, EXPIRED, VOID]), st.integers(0, 5)), max_size=20)
)
def test_however_often_entries_come_each_is_charged_once(
    drawn: list[tuple[Entry, int]],
) -> None:
    ledger = opened(MemoryLedger(ManualClock()))
    first: dict[str, int] = {}

    for entry, number in drawn:
        named = replace(entry, reservation_id=f"s/turn/{number}/1.1")
        ledger.restore(named, deadline_ms=LATER_MS)
        first.setdefault(named.reservation_id, named.actual_nusd)

    assert money(ledger, "fleet")[0] == sum(first.values())
