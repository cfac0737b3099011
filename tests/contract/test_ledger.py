"""What every ledger does, in memory and in Valkey."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from worker.core.values import Usage
from worker.errors import BadInput, BudgetDenied
from worker.ledger.keys import MAX_NUSD
from worker.ledger.memory import MemoryLedger
from worker.ledger.redis import RedisLedger
from worker.ports import Account, Entry, EntryState
from worker.redis_connection import connect
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPES = ("fleet", "tenant:t", "campaign:c", "session:s")
#: From now: overdue at once, and not in this test.
AT_ONCE_MS, LATER_MS = 0, 600_000

AnyLedger = MemoryLedger | RedisLedger


@pytest.fixture(
    params=[
        "memory",
        pytest.param("valkey", marks=[pytest.mark.integration, pytest.mark.enable_socket]),
    ]
)
def empty(request: pytest.FixtureRequest) -> Iterator[AnyLedger]:
    """A ledger without an account."""
    if request.param == "memory":
        yield MemoryLedger(ManualClock())
        return
    with connect(request.getfixturevalue("redis_url")) as client:
        yield RedisLedger(client)


@pytest.fixture
def ledger(empty: AnyLedger) -> AnyLedger:
    """A ledger with the accounts of one session; 1000 in the tightest, the session's."""
    for number, scope in enumerate(reversed(SCOPES)):
        empty.open_account(scope, 1000 * 10**number)
    return empty


def reserve(
    ledger: AnyLedger,
    name: str,
    amount: int,
    scopes: tuple[str, ...] = SCOPES,
    *,
    deadline_ms: int = LATER_MS,
    replaces: str | None = None,
) -> None:
    ledger.reserve(
        name,
        amount,
        scopes,
        kind="explore",
        model="claude-opus-4-6",
        step_id="turn/1",
        price_version="2026-11-22.1",
        deadline_ms=deadline_ms,
        replaces=replaces,
    )


def reserve_and_send(ledger: AnyLedger, name: str, amount: int) -> None:
    reserve(ledger, name, amount)
    ledger.sent(name)


def the(ledger: AnyLedger, scope: str) -> Account:
    account = ledger.account(scope)
    assert account is not None
    return account


def money(ledger: AnyLedger, scope: str = "session:s") -> tuple[int, int, int]:
    """(posted, held, unknown)."""
    account = the(ledger, scope)
    return account.posted_nusd, account.held_nusd, account.unknown_nusd


def only_entry(ledger: AnyLedger) -> Entry:
    (entry,) = ledger.entries("s")
    return entry


def in_state(ledger: AnyLedger, name: str, state: EntryState) -> None:
    """Make a reservation of 100 and bring it into `state`."""
    reserve(ledger, name, 100)
    if state is not EntryState.HELD:
        ledger.sent(name)
    match state:
        case EntryState.SETTLED:
            ledger.settle(name, 40, usage=Usage())
        case EntryState.EXPIRED:
            ledger.charge_unknown(name, "time-out")
        case EntryState.VOID:
            ledger.void(name, "429")
        case EntryState.REFUNDED:
            ledger.charge_unknown(name, "time-out")
            ledger.refund(name, "not in the export")
        case EntryState.HELD | EntryState.SENT:
            pass


# --------------------------------------------------------------------------------------- accounts


def test_an_account_starts_with_its_cap_and_nothing_on_it(empty: AnyLedger) -> None:
    assert empty.open_account("tenant:t", 500)

    assert empty.account("tenant:t") == Account(
        scope="tenant:t", cap_nusd=500, posted_nusd=0, held_nusd=0
    )


def test_an_account_that_exists_keeps_its_cap(empty: AnyLedger) -> None:
    empty.open_account("tenant:t", 500)

    assert not empty.open_account("tenant:t", 900)

    assert the(empty, "tenant:t").cap_nusd == 500


def test_an_account_that_nobody_opened_is_none(empty: AnyLedger) -> None:
    assert empty.account("tenant:t") is None
    assert empty.accounts() == ()


def test_all_accounts_but_the_sessions_are_listed_by_name(ledger: AnyLedger) -> None:
    assert [account.scope for account in ledger.accounts()] == ["campaign:c", "fleet", "tenant:t"]


def test_a_cap_changes_while_money_is_held(ledger: AnyLedger) -> None:
    reserve(ledger, "a", 600)

    account = ledger.set_cap("session:s", 700)

    assert (account.cap_nusd, account.held_nusd, account.free_nusd) == (700, 600, 100)
    assert account == ledger.account("session:s")


def test_a_cap_below_what_is_held_blocks_until_it_fits_again(ledger: AnyLedger) -> None:
    reserve_and_send(ledger, "a", 600)
    ledger.set_cap("session:s", 500)

    with pytest.raises(BudgetDenied) as denied:
        reserve(ledger, "b", 1)
    assert (denied.value.why, denied.value.free_nusd) == ("cap", 0)

    ledger.settle("a", 200, usage=Usage())
    reserve(ledger, "b", 300)
    assert the(ledger, "session:s").free_nusd == 0


def test_an_account_that_does_not_exist_cannot_be_changed(empty: AnyLedger) -> None:
    for change in (
        lambda: empty.set_cap("tenant:t", 1),
        lambda: empty.close_account("tenant:t"),
        lambda: empty.freeze("tenant:t"),
        lambda: empty.unfreeze("tenant:t"),
    ):
        with pytest.raises(BadInput, match="tenant:t"):
            change()

    assert empty.account("tenant:t") is None


@pytest.mark.parametrize("scope", ["", "tenant: t", "tenant:T", "a|b", "{x}", "ä", "x" * 256, "\n"])
def test_a_name_that_could_leave_its_key_is_refused(empty: AnyLedger, scope: str) -> None:
    with pytest.raises(BadInput):
        empty.open_account(scope, 1)
    with pytest.raises(BadInput):
        empty.account(scope)


# ---------------------------------------------------------------------------------------- reserve


def test_a_reservation_is_held_in_every_scope(ledger: AnyLedger) -> None:
    reserve(ledger, "a", 300)

    assert [money(ledger, scope) for scope in SCOPES] == [(0, 300, 0)] * 4
    assert replace(only_entry(ledger), created_ms=0) == Entry(
        reservation_id="a",
        state=EntryState.HELD,
        amount_nusd=300,
        actual_nusd=0,
        scopes=SCOPES,
        kind="explore",
        model="claude-opus-4-6",
        step_id="turn/1",
        price_version="2026-11-22.1",
        created_ms=0,
    )


def test_the_last_nano_dollar_can_be_reserved_and_not_one_more(ledger: AnyLedger) -> None:
    reserve(ledger, "a", 999)
    reserve(ledger, "b", 1)

    with pytest.raises(BudgetDenied) as denied:
        reserve(ledger, "c", 1)

    assert (denied.value.scope, denied.value.free_nusd, denied.value.why) == ("session:s", 0, "cap")


def test_a_denial_changes_nothing_anywhere(ledger: AnyLedger) -> None:
    ledger.set_cap("campaign:c", 100)

    with pytest.raises(BudgetDenied):
        reserve(ledger, "a", 101)

    assert [money(ledger, scope) for scope in SCOPES] == [(0, 0, 0)] * 4
    assert ledger.entries("s") == ()


def test_a_denial_names_the_tightest_scope_so_that_one_smaller_call_fits_all(
    ledger: AnyLedger,
) -> None:
    ledger.set_cap("fleet", 80)
    ledger.set_cap("campaign:c", 50)
    ledger.set_cap("session:s", 70)

    with pytest.raises(BudgetDenied) as denied:
        reserve(ledger, "a", 100)

    assert (denied.value.scope, denied.value.free_nusd) == ("campaign:c", 50)
    reserve(ledger, "a", 50)


def test_an_account_is_never_made_by_charging_it(ledger: AnyLedger) -> None:
    with pytest.raises(BudgetDenied) as denied:
        reserve(ledger, "a", 1, ("fleet", "tenant:other"))

    assert (denied.value.scope, denied.value.why) == ("tenant:other", "no_account")
    assert ledger.account("tenant:other") is None
    assert money(ledger, "fleet") == (0, 0, 0)


def test_a_frozen_account_takes_no_reservation_until_it_is_unfrozen(ledger: AnyLedger) -> None:
    assert ledger.freeze("tenant:t").frozen

    with pytest.raises(BudgetDenied) as denied:
        reserve(ledger, "a", 1)
    assert (denied.value.scope, denied.value.why) == ("tenant:t", "frozen")

    assert not ledger.unfreeze("tenant:t").frozen
    reserve(ledger, "a", 1)


def test_a_closed_account_takes_none_and_what_is_open_still_ends(ledger: AnyLedger) -> None:
    reserve_and_send(ledger, "a", 300)
    ledger.close_account("session:s")

    with pytest.raises(BudgetDenied) as denied:
        reserve(ledger, "b", 1)
    assert (denied.value.scope, denied.value.why) == ("session:s", "closed")

    ledger.settle("a", 200, usage=Usage())
    assert money(ledger) == (200, 0, 0)


def test_the_kill_switch_stops_reservations_and_sending(ledger: AnyLedger) -> None:
    reserve(ledger, "held", 1)
    reserve_and_send(ledger, "sent", 1)
    ledger.kill(on=True)

    assert ledger.killed()
    for refused in (lambda: reserve(ledger, "new", 1), lambda: ledger.sent("held")):
        with pytest.raises(BudgetDenied) as denied:
            refused()
        assert denied.value.why == "killed"
    assert ledger.settle("sent", 1, usage=Usage())

    ledger.kill(on=False)
    assert not ledger.killed()
    ledger.sent("held")


def test_a_repeat_of_a_hold_does_nothing(ledger: AnyLedger) -> None:
    reserve(ledger, "a", 300)

    reserve(ledger, "a", 300)

    assert money(ledger) == (0, 300, 0)
    assert len(ledger.entries("s")) == 1


def test_another_reservation_under_a_held_id_is_refused(ledger: AnyLedger) -> None:
    reserve(ledger, "a", 300)

    with pytest.raises(BadInput, match="'a'"):
        reserve(ledger, "a", 301)
    with pytest.raises(BadInput, match="'a'"):
        reserve(ledger, "a", 300, SCOPES[1:])

    assert money(ledger) == (0, 300, 0)


@pytest.mark.parametrize("state", [state for state in EntryState if state is not EntryState.HELD])
def test_an_id_whose_request_went_out_or_was_given_up_is_not_used_again(
    ledger: AnyLedger, state: EntryState
) -> None:
    in_state(ledger, "a", state)
    before = money(ledger)

    with pytest.raises(BudgetDenied) as denied:
        reserve(ledger, "a", 100)

    assert denied.value.why == "closed"
    assert money(ledger) == before


@pytest.mark.parametrize("amount", [0, -1, MAX_NUSD + 1, 10**30, 1.5, True])
def test_an_amount_that_a_counter_cannot_hold_exactly_is_refused(
    ledger: AnyLedger, amount: int
) -> None:
    with pytest.raises(BadInput, match="nano-dollars"):
        reserve(ledger, "a", amount)

    assert ledger.entries("s") == ()


def test_the_largest_amount_is_counted_to_the_nano_dollar(empty: AnyLedger) -> None:
    empty.open_account("session:s", MAX_NUSD)
    reserve(empty, "a", MAX_NUSD - 1, ("session:s",))
    empty.sent("a")

    empty.settle("a", MAX_NUSD - 2, usage=Usage())
    reserve(empty, "b", 2, ("session:s",))

    assert the(empty, "session:s").free_nusd == 0
    assert money(empty) == (MAX_NUSD - 2, 2, 0)


@pytest.mark.parametrize("scopes", [(), ("fleet", "fleet"), ("fleet", "a b")])
def test_a_reservation_names_each_of_its_accounts_once(
    ledger: AnyLedger, scopes: tuple[str, ...]
) -> None:
    with pytest.raises(BadInput):
        reserve(ledger, "a", 1, scopes)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "é", "{s}", "x" * 256])
def test_a_reservation_id_that_could_leave_its_key_is_refused(ledger: AnyLedger, name: str) -> None:
    with pytest.raises(BadInput):
        reserve(ledger, name, 1)


# --------------------------------------------------------------------------------------- replaces


def test_a_reservation_takes_the_place_and_the_room_of_a_hold(ledger: AnyLedger) -> None:
    reserve(ledger, "closing", 900)

    reserve(ledger, "a", 1000, replaces="closing")

    closing, entry = ledger.entries("s")
    assert (closing.state, closing.why, closing.actual_nusd) == (EntryState.VOID, "replaced", 0)
    assert entry.state is EntryState.HELD
    assert money(ledger) == (0, 1000, 0)


def test_a_denied_replacement_leaves_the_old_hold(ledger: AnyLedger) -> None:
    reserve(ledger, "closing", 900)

    with pytest.raises(BudgetDenied) as denied:
        reserve(ledger, "a", 1001, replaces="closing")

    assert denied.value.free_nusd == 1000
    assert only_entry(ledger).state is EntryState.HELD
    assert money(ledger) == (0, 900, 0)


def test_a_hold_makes_room_only_in_its_own_accounts(ledger: AnyLedger) -> None:
    reserve(ledger, "closing", 900, ("fleet", "session:s"))
    ledger.set_cap("tenant:t", 50)

    with pytest.raises(BudgetDenied) as denied:
        reserve(ledger, "a", 100, replaces="closing")

    assert (denied.value.scope, denied.value.free_nusd) == ("tenant:t", 50)


@pytest.mark.parametrize("state", [state for state in EntryState if state is not EntryState.HELD])
def test_only_what_is_held_can_be_replaced(ledger: AnyLedger, state: EntryState) -> None:
    in_state(ledger, "old", state)
    posted, held, _ = money(ledger)

    reserve(ledger, "a", 1000 - posted - held, replaces="old")

    assert ledger.entries("s")[0].state is state
    assert the(ledger, "session:s").free_nusd == 0


def test_what_does_not_exist_is_replaced_by_nothing_more(ledger: AnyLedger) -> None:
    reserve(ledger, "a", 1000, replaces="never-made")

    assert money(ledger) == (0, 1000, 0)


def test_a_second_attempt_takes_over_from_the_first_that_replaced_the_hold(
    ledger: AnyLedger,
) -> None:
    reserve(ledger, "closing", 900)
    reserve(ledger, "first", 950, replaces="closing")

    reserve(ledger, "second", 1000, replaces="closing")

    assert [entry.state for entry in ledger.entries("s")] == ["void", "void", "held"]
    with pytest.raises(BudgetDenied):
        ledger.sent("first")


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("amount", [200, 250, 100])
def test_a_call_that_came_to_nothing_leaves_its_place_to_the_hold_again(
    ledger: AnyLedger, amount: int, *, sent: bool
) -> None:
    reserve(ledger, "closing", 200)
    reserve(ledger, "call", amount, replaces="closing")
    if sent:
        ledger.sent("call")

    ledger.void("call", "429")
    ledger.void("call", "429")

    closing, call = ledger.entries("s")
    assert (closing.state, closing.amount_nusd, closing.why) == (EntryState.HELD, 200, "")
    assert call.state is EntryState.VOID
    assert [money(ledger, scope) for scope in SCOPES] == [(0, 200, 0)] * 4


def test_nobody_takes_the_closing_money_between_two_tries(ledger: AnyLedger) -> None:
    ledger.open_account("session:other", 1000)
    ledger.set_cap("campaign:c", 200)
    reserve(ledger, "closing", 200)
    reserve(ledger, "first", 200, replaces="closing")

    ledger.void("first", "429")
    with pytest.raises(BudgetDenied):
        reserve(ledger, "greedy", 1, ("fleet", "tenant:t", "campaign:c", "session:other"))

    reserve(ledger, "second", 200, replaces="closing")
    ledger.sent("second")
    ledger.settle("second", 150, usage=Usage())
    assert money(ledger, "campaign:c") == (150, 0, 0)


def test_a_hold_that_no_longer_fits_whole_keeps_what_the_call_held(ledger: AnyLedger) -> None:
    reserve(ledger, "closing", 600)
    reserve(ledger, "small", 400, replaces="closing")
    reserve(ledger, "other", 500)

    ledger.void("small", "429")

    assert ledger.entries("s")[0].amount_nusd == 500
    assert money(ledger) == (0, 1000, 0)


def test_a_lowered_cap_takes_no_closing_money_away(ledger: AnyLedger) -> None:
    reserve(ledger, "closing", 600)
    reserve(ledger, "call", 400, replaces="closing")
    ledger.set_cap("session:s", 10)

    ledger.void("call", "429")

    assert money(ledger) == (0, 400, 0)


def test_a_call_that_died_unsent_leaves_its_place_to_the_hold_again(ledger: AnyLedger) -> None:
    reserve(ledger, "closing", 200)
    reserve(ledger, "call", 300, replaces="closing", deadline_ms=AT_ONCE_MS)

    ledger.expire_overdue(limit=10)

    assert [entry.state for entry in ledger.entries("s")] == ["held", "void"]
    assert money(ledger) == (0, 200, 0)


def test_the_first_of_several_holds_stands_again(ledger: AnyLedger) -> None:
    reserve(ledger, "closing", 200)
    reserve(ledger, "first", 300, replaces="closing")
    reserve(ledger, "second", 400, replaces="closing")

    ledger.void("second", "429")

    assert [entry.state for entry in ledger.entries("s")] == ["held", "void", "void"]
    assert money(ledger) == (0, 200, 0)


def test_a_hold_that_stands_again_ends_at_its_own_deadline(ledger: AnyLedger) -> None:
    reserve(ledger, "closing", 200, deadline_ms=AT_ONCE_MS)
    reserve(ledger, "call", 200, replaces="closing")
    ledger.void("call", "429")

    assert ledger.expire_overdue(limit=10) == 1
    assert money(ledger) == (0, 0, 0)


@pytest.mark.parametrize("end", ["settle", "charge_unknown", "void late"])
def test_a_call_that_may_have_been_billed_leaves_no_hold(ledger: AnyLedger, end: str) -> None:
    reserve(ledger, "closing", 200)
    reserve(ledger, "call", 300, replaces="closing")
    ledger.sent("call")

    if end == "settle":
        ledger.settle("call", 100, usage=Usage())
    else:
        ledger.charge_unknown("call", "time-out")
    if end == "void late":
        ledger.void("call", "the provider says so")

    assert ledger.entries("s")[0].state is EntryState.VOID
    assert money(ledger)[1] == 0


# ------------------------------------------------------------------------------------- life of one


def test_sent_lets_one_caller_through_once(ledger: AnyLedger) -> None:
    reserve(ledger, "a", 300)

    ledger.sent("a")

    assert only_entry(ledger).state is EntryState.SENT
    with pytest.raises(BudgetDenied) as denied:
        ledger.sent("a")
    assert denied.value.why == "closed"


@pytest.mark.parametrize(
    "state", [EntryState.SETTLED, EntryState.EXPIRED, EntryState.VOID, EntryState.REFUNDED]
)
def test_nothing_is_sent_under_what_has_ended(ledger: AnyLedger, state: EntryState) -> None:
    in_state(ledger, "a", state)

    with pytest.raises(BudgetDenied):
        ledger.sent("a")


def test_nothing_is_sent_under_what_nobody_reserved(ledger: AnyLedger) -> None:
    with pytest.raises(BudgetDenied, match="unknown"):
        ledger.sent("a")


def test_of_many_callers_one_sends(ledger: AnyLedger) -> None:
    reserve(ledger, "a", 300)
    start = threading.Barrier(8)

    def send(_: int) -> bool:
        start.wait()
        try:
            ledger.sent("a")
        except BudgetDenied:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(send, range(8))) == [False] * 7 + [True]


def test_settling_charges_the_truth_and_frees_the_rest(ledger: AnyLedger) -> None:
    reserve_and_send(ledger, "a", 300)
    usage = Usage(
        input_tokens=1,
        cache_write_5m_tokens=2,
        cache_write_1h_tokens=3,
        cache_read_tokens=4,
        output_tokens=5,
    )

    assert ledger.settle("a", 120, usage=usage, request_id="req_1", message_id="msg_1")

    assert [money(ledger, scope) for scope in SCOPES] == [(120, 0, 0)] * 4
    entry = only_entry(ledger)
    assert (entry.state, entry.actual_nusd, entry.amount_nusd) == (EntryState.SETTLED, 120, 300)
    assert (entry.usage, entry.request_id, entry.message_id) == (usage, "req_1", "msg_1")


def test_the_first_truth_stays(ledger: AnyLedger) -> None:
    reserve_and_send(ledger, "a", 300)
    ledger.settle("a", 120, usage=Usage())

    assert ledger.settle("a", 299, usage=Usage(output_tokens=9))

    assert money(ledger) == (120, 0, 0)
    assert only_entry(ledger).usage == Usage()


def test_a_call_may_cost_its_whole_bound_or_nothing(ledger: AnyLedger) -> None:
    reserve_and_send(ledger, "whole", 300)
    reserve_and_send(ledger, "nothing", 300)

    assert ledger.settle("whole", 300, usage=Usage())
    assert ledger.settle("nothing", 0, usage=Usage())

    assert money(ledger) == (300, 0, 0)
    assert the(ledger, "session:s").breach_nusd == 0


@pytest.mark.parametrize("state", [EntryState.HELD, EntryState.SENT, EntryState.EXPIRED])
def test_a_truth_above_the_bound_is_charged_and_freezes_the_accounts(
    ledger: AnyLedger, state: EntryState
) -> None:
    in_state(ledger, "a", state)

    assert not ledger.settle("a", 107, usage=Usage())
    assert not ledger.settle("a", 107, usage=Usage())

    for scope in SCOPES:
        account = the(ledger, scope)
        assert (account.posted_nusd, account.held_nusd, account.unknown_nusd) == (107, 0, 0)
        assert (account.breach_nusd, account.frozen) == (7, True)
    with pytest.raises(BudgetDenied) as denied:
        reserve(ledger, "b", 1)
    assert denied.value.why == "frozen"


def test_what_was_breached_stays_on_record_when_the_account_is_unfrozen(ledger: AnyLedger) -> None:
    reserve_and_send(ledger, "a", 100)
    ledger.settle("a", 107, usage=Usage())

    account = ledger.unfreeze("session:s")

    assert (account.breach_nusd, account.frozen) == (7, False)


def test_a_narrowed_hold_frees_the_difference(ledger: AnyLedger) -> None:
    reserve_and_send(ledger, "a", 300)

    ledger.narrow("a", 200)
    ledger.narrow("a", 250)

    assert [money(ledger, scope) for scope in SCOPES] == [(0, 200, 0)] * 4
    assert only_entry(ledger).amount_nusd == 200


def test_a_narrowed_hold_is_the_new_bound(ledger: AnyLedger) -> None:
    reserve_and_send(ledger, "a", 300)
    ledger.narrow("a", 200)

    assert not ledger.settle("a", 201, usage=Usage())


@pytest.mark.parametrize(
    "state", [EntryState.SETTLED, EntryState.EXPIRED, EntryState.VOID, EntryState.REFUNDED]
)
def test_what_has_ended_is_not_narrowed(ledger: AnyLedger, state: EntryState) -> None:
    in_state(ledger, "a", state)
    before = money(ledger)

    ledger.narrow("a", 1)

    assert money(ledger) == before


def test_the_provider_s_id_is_there_before_the_outcome_and_stays_where_that_is_unknown(
    ledger: AnyLedger,
) -> None:
    reserve_and_send(ledger, "a", 300)

    ledger.narrow("a", 300, "req_1")
    ledger.narrow("a", 200)

    entry = only_entry(ledger)
    assert (entry.state, entry.amount_nusd, entry.request_id) == (EntryState.SENT, 200, "req_1")
    ledger.charge_unknown("a", "the process was stopped")
    assert only_entry(ledger).request_id == "req_1"


def test_a_call_whose_process_died_after_the_answer_began_is_charged_with_its_id(
    ledger: AnyLedger,
) -> None:
    reserve(ledger, "a", 300, deadline_ms=AT_ONCE_MS)
    ledger.sent("a")
    ledger.narrow("a", 300, "req_1")

    assert ledger.expire_overdue(limit=10) == 1

    entry = only_entry(ledger)
    assert (entry.state, entry.request_id) == (EntryState.EXPIRED, "req_1")
    ledger.narrow("a", 1, "req_2")
    assert only_entry(ledger).request_id == "req_1"


def test_a_void_hold_costs_nothing(ledger: AnyLedger) -> None:
    reserve(ledger, "held", 300)
    reserve_and_send(ledger, "sent", 300)

    for name in ("held", "sent", "held"):
        ledger.void(name, "429")

    assert money(ledger) == (0, 0, 0)
    assert [(entry.state, entry.why) for entry in ledger.entries("s")] == [("void", "429")] * 2


def test_voiding_what_is_settled_or_was_never_made_changes_nothing(ledger: AnyLedger) -> None:
    in_state(ledger, "a", EntryState.SETTLED)

    ledger.void("a", "429")
    ledger.void("never-made", "429")

    assert money(ledger) == (40, 0, 0)


def test_an_unknown_outcome_is_charged_at_its_bound(ledger: AnyLedger) -> None:
    reserve_and_send(ledger, "a", 300)
    ledger.narrow("a", 200)

    ledger.charge_unknown("a", "time-out", "req_1")
    ledger.charge_unknown("a", "again", "req_2")

    assert [money(ledger, scope) for scope in SCOPES] == [(200, 0, 200)] * 4
    entry = only_entry(ledger)
    assert (entry.state, entry.actual_nusd, entry.why) == (EntryState.EXPIRED, 200, "time-out")
    assert entry.request_id == "req_1"


def test_a_late_truth_corrects_what_was_charged_as_unknown(ledger: AnyLedger) -> None:
    in_state(ledger, "a", EntryState.EXPIRED)

    assert ledger.settle("a", 30, usage=Usage(output_tokens=1))

    assert money(ledger) == (30, 0, 0)
    entry = only_entry(ledger)
    assert (entry.state, entry.actual_nusd, entry.why) == (EntryState.SETTLED, 30, "")


def test_a_late_proof_that_nothing_was_billed_gives_the_charge_back(ledger: AnyLedger) -> None:
    in_state(ledger, "a", EntryState.EXPIRED)

    ledger.void("a", "429")

    assert money(ledger) == (0, 0, 0)
    entry = only_entry(ledger)
    assert (entry.state, entry.actual_nusd) == (EntryState.VOID, 0)


def test_a_bill_for_what_was_given_up_is_charged_as_a_breach(ledger: AnyLedger) -> None:
    in_state(ledger, "a", EntryState.VOID)

    assert ledger.settle("a", 0, usage=Usage())
    assert only_entry(ledger).state is EntryState.VOID
    assert not ledger.settle("a", 30, usage=Usage())

    account = the(ledger, "session:s")
    assert (account.posted_nusd, account.breach_nusd, account.frozen) == (30, 30, True)
    assert only_entry(ledger).actual_nusd == 30


@pytest.mark.parametrize("state", [EntryState.SETTLED, EntryState.VOID])
def test_a_known_outcome_does_not_become_unknown(ledger: AnyLedger, state: EntryState) -> None:
    in_state(ledger, "a", state)
    before = money(ledger)

    ledger.charge_unknown("a", "time-out")

    assert money(ledger) == before
    assert only_entry(ledger).state is state


def test_nobody_is_charged_for_what_was_never_reserved(ledger: AnyLedger) -> None:
    with pytest.raises(BadInput, match="never-made"):
        ledger.settle("never-made", 1, usage=Usage())
    with pytest.raises(BadInput, match="never-made"):
        ledger.charge_unknown("never-made", "time-out")
    ledger.narrow("never-made", 1)
    assert not ledger.extend("never-made", 1)


# ----------------------------------------------------------------------------------------- refunds


def test_what_is_proven_unbilled_is_refunded_once(ledger: AnyLedger) -> None:
    in_state(ledger, "a", EntryState.EXPIRED)
    ended_ms = only_entry(ledger).ended_ms

    assert ledger.refund("a", "not in the export")
    assert ledger.refund("a", "again")

    assert [money(ledger, scope) for scope in SCOPES] == [(0, 0, 0)] * 4
    entry = only_entry(ledger)
    assert (entry.state, entry.actual_nusd, entry.amount_nusd) == (EntryState.REFUNDED, 0, 100)
    assert (entry.why, entry.ended_ms) == ("not in the export", ended_ms)


@pytest.mark.parametrize(
    "state", [EntryState.HELD, EntryState.SENT, EntryState.SETTLED, EntryState.VOID]
)
def test_only_an_unknown_outcome_is_refunded(ledger: AnyLedger, state: EntryState) -> None:
    in_state(ledger, "a", state)
    before = money(ledger)

    assert not ledger.refund("a", "not in the export")
    assert not ledger.refund("never-made", "not in the export")

    assert money(ledger) == before
    assert only_entry(ledger).state is state


def test_a_refund_ends_nothing_else(ledger: AnyLedger) -> None:
    in_state(ledger, "a", EntryState.EXPIRED)
    ledger.refund("a", "not in the export")

    ledger.charge_unknown("a", "time-out")
    ledger.void("a", "429")
    ledger.narrow("a", 1)
    with pytest.raises(BudgetDenied):
        ledger.sent("a")

    assert only_entry(ledger).state is EntryState.REFUNDED
    assert money(ledger) == (0, 0, 0)


def test_a_bill_for_what_was_refunded_is_charged_as_a_breach(ledger: AnyLedger) -> None:
    in_state(ledger, "a", EntryState.EXPIRED)
    ledger.refund("a", "not in the export")

    assert ledger.settle("a", 0, usage=Usage())
    assert not ledger.settle("a", 30, usage=Usage())

    account = the(ledger, "session:s")
    assert (account.posted_nusd, account.breach_nusd, account.frozen) == (30, 30, True)


# --------------------------------------------------------------------------------------- deadlines


def test_past_its_deadline_what_was_sent_is_charged_and_what_was_not_is_free(
    ledger: AnyLedger,
) -> None:
    reserve(ledger, "held", 100, deadline_ms=AT_ONCE_MS)
    reserve(ledger, "sent", 300, deadline_ms=AT_ONCE_MS)
    ledger.sent("sent")

    assert ledger.expire_overdue(limit=10) == 2
    assert ledger.expire_overdue(limit=10) == 0

    held, sent = ledger.entries("s")
    assert (held.state, held.actual_nusd, held.why) == (EntryState.VOID, 0, "never sent")
    assert (sent.state, sent.actual_nusd, sent.why) == (EntryState.EXPIRED, 300, "deadline")
    assert [money(ledger, scope) for scope in SCOPES] == [(300, 0, 300)] * 4


def test_a_hold_that_stands_again_and_is_overdue_ends_in_the_same_sweep(ledger: AnyLedger) -> None:
    reserve(ledger, "closing", 200, deadline_ms=AT_ONCE_MS)
    reserve(ledger, "call", 200, deadline_ms=AT_ONCE_MS, replaces="closing")

    assert ledger.expire_overdue(limit=1) == 1
    assert [entry.state for entry in ledger.entries("s")] == ["held", "void"]
    assert ledger.expire_overdue(limit=10) == 1

    reserve(ledger, "closing-2", 200, deadline_ms=AT_ONCE_MS)
    reserve(ledger, "call-2", 200, deadline_ms=AT_ONCE_MS, replaces="closing-2")
    assert ledger.expire_overdue(limit=10) == 2
    assert money(ledger) == (0, 0, 0)


def test_what_is_not_overdue_or_has_ended_is_left_alone(ledger: AnyLedger) -> None:
    reserve_and_send(ledger, "a", 100)
    reserve(ledger, "b", 100, deadline_ms=AT_ONCE_MS)
    ledger.void("b", "429")

    assert ledger.expire_overdue(limit=10) == 0
    assert money(ledger) == (0, 100, 0)


def test_the_oldest_deadlines_come_first_and_no_more_than_asked(ledger: AnyLedger) -> None:
    for name in ("a", "b", "c"):
        reserve(ledger, name, 100, deadline_ms=AT_ONCE_MS)

    assert ledger.expire_overdue(limit=2) == 2

    assert [entry.state for entry in ledger.entries("s")] == ["void", "void", "held"]


def test_a_deadline_can_be_moved_while_a_reservation_is_open(ledger: AnyLedger) -> None:
    reserve(ledger, "a", 100, deadline_ms=AT_ONCE_MS)
    assert ledger.extend("a", LATER_MS)
    assert ledger.expire_overdue(limit=10) == 0

    assert ledger.extend("a", AT_ONCE_MS)
    assert ledger.expire_overdue(limit=10) == 1
    assert not ledger.extend("a", LATER_MS)


# ----------------------------------------------------------------------------------------- entries


def test_a_session_sees_its_own_reservations_in_the_order_in_which_they_were_made(
    ledger: AnyLedger,
) -> None:
    ledger.open_account("session:other", 1000)
    for name in ("z", "a", "m"):
        reserve(ledger, name, 10)
    reserve(ledger, "other", 10, ("fleet", "session:other"))
    ledger.void("z", "429")

    assert [entry.reservation_id for entry in ledger.entries("s")] == ["z", "a", "m"]
    assert [entry.reservation_id for entry in ledger.entries("other")] == ["other"]
    assert ledger.entries("nobody") == ()


def test_concurrent_reservations_never_pass_the_cap(ledger: AnyLedger) -> None:
    def take(number: int) -> int:
        amount = 7 + number % 13
        try:
            reserve_and_send(ledger, f"r{number}", amount)
        except BudgetDenied:
            return 0
        ledger.settle(f"r{number}", amount // 2, usage=Usage())
        return amount // 2

    with ThreadPoolExecutor(16) as pool:
        spent = sum(pool.map(take, range(400)))

    assert money(ledger) == (spent, 0, 0)
    assert 950 < spent <= 1000
