"""What every ledger promises, in memory and in Valkey: money set apart before a session starts."""

from __future__ import annotations

import pytest

from tests.contract.test_ledger import AnyLedger, empty, ledger, reserve
from worker.core.waiting import Room
from worker.errors import BadInput, BudgetDenied

__all__ = ["empty", "ledger"]

SHARED = ("fleet", "tenant:t", "campaign:c")


def promised(ledger: AnyLedger) -> list[int]:
    return [ledger.rooms([scope])[scope].promised_nusd for scope in SHARED]


def test_a_promise_is_set_apart_from_other_promises_and_spends_nothing(ledger: AnyLedger) -> None:
    ledger.promise("other", 9_000, SHARED)

    assert ledger.rooms(SHARED) == {
        "fleet": Room(free_nusd=1_000_000, promised_nusd=9_000),
        "tenant:t": Room(free_nusd=100_000, promised_nusd=9_000),
        "campaign:c": Room(free_nusd=10_000, promised_nusd=9_000),
    }
    with pytest.raises(BudgetDenied, match=r"'campaign:c' has \S+ free") as denied:
        ledger.promise("third", 1_001, SHARED)
    assert (denied.value.free_nusd, denied.value.why) == (1_000, "cap")
    assert denied.value.amount_nusd == 1_001
    ledger.promise("third", 1_000, SHARED)
    assert promised(ledger) == [10_000] * 3


def test_a_promise_shrinks_by_what_its_session_uses(ledger: AnyLedger) -> None:
    ledger.promise("s", 900, SHARED)

    reserve(ledger, "r-1", 400)

    assert promised(ledger) == [500] * 3
    reserve(ledger, "r-2", 600)
    assert promised(ledger) == [0] * 3


def test_a_promise_said_twice_is_one_and_a_refused_one_is_none(ledger: AnyLedger) -> None:
    ledger.promise("s", 5_000, SHARED)
    ledger.promise("s", 9_999, SHARED)
    with pytest.raises(BudgetDenied):
        ledger.promise("other", 5_001, SHARED)

    assert promised(ledger) == [5_000] * 3


def test_what_was_promised_is_free_again_once_the_session_ends(ledger: AnyLedger) -> None:
    ledger.promise("s", 10_000, SHARED)

    ledger.release("s", SHARED)
    ledger.release("s", SHARED)

    assert promised(ledger) == [0] * 3
    ledger.promise("other", 10_000, SHARED)


def test_what_a_lost_ledger_had_promised_is_promised_again_whatever_is_left(
    ledger: AnyLedger,
) -> None:
    reserve(ledger, "r-1", 800)
    ledger.freeze("fleet")

    for _ in range(2):
        ledger.restore_promise("s", 9_800, SHARED)
    ledger.restore_promise("other", 4_000, SHARED)

    # 800 of the first one's are used; the campaign has 10,000 in all.
    assert promised(ledger) == [13_000] * 3
    ledger.release("s", SHARED)
    assert promised(ledger) == [4_000] * 3


@pytest.mark.parametrize("why", ["frozen", "closed", "killed"])
def test_an_account_that_takes_nothing_has_no_room_and_promises_nothing(
    ledger: AnyLedger, why: str
) -> None:
    match why:
        case "frozen":
            ledger.freeze("tenant:t")
        case "closed":
            ledger.close_account("tenant:t")
        case _:
            ledger.kill(on=True)

    assert ledger.rooms(["tenant:t"])["tenant:t"].free_nusd == 0
    with pytest.raises(BudgetDenied) as denied:
        ledger.promise("s", 1, SHARED)
    assert denied.value.why == why
    assert promised(ledger) == [0] * 3


def test_an_account_that_does_not_exist_has_no_room_and_promises_nothing(
    empty: AnyLedger,
) -> None:
    assert empty.rooms(["tenant:t"]) == {"tenant:t": Room(free_nusd=0)}
    assert empty.rooms([]) == {}
    with pytest.raises(BudgetDenied, match="does not exist"):
        empty.promise("s", 1, SHARED)


@pytest.mark.parametrize("amount", [0, -1, 2**53])
def test_only_a_whole_positive_amount_is_promised(ledger: AnyLedger, amount: int) -> None:
    with pytest.raises(BadInput):
        ledger.promise("s", amount, SHARED)
